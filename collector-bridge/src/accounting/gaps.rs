//! Turns running totals of lost events into gaps: how many events were lost, why, and in which time. No I/O.

use std::time::{Duration, Instant};

use acceptd_otlp::{DropReason, LedgerSnapshot};

use crate::accounting::ledger::CaptureLedger;

/// Shortest time between two gaps of one reason and destination.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// How long [`Gaps::recent`] remembers a gap.
const RECENT: Duration = Duration::from_mins(1);

/// The reason of a gap in which no agent ran. It has no count.
pub(crate) const AGENT_NOT_RUNNING: &str = "agent_not_running";

/// Events that were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    /// A value of `acceptd.loss.reason`.
    pub(crate) reason: &'static str,
    /// The destination that the events did not reach; `None` if they were lost before any destination.
    pub(crate) destination: Option<String>,
    /// How many events; `None` if that is unknown.
    pub(crate) count: Option<u64>,
    /// The time in which they were lost, up to the report.
    pub(crate) interval: Duration,
}

/// Everything that was lost so far for one reason, at one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LossTotal {
    /// See [`Gap`].
    pub(crate) reason: &'static str,
    /// See [`Gap`].
    pub(crate) destination: Option<String>,
    /// How many events.
    pub(crate) count: u64,
}

/// The losses reported so far, for each reason and destination.
#[derive(Debug, Default)]
pub(crate) struct Gaps(Vec<Reported>);

#[derive(Debug)]
struct Reported {
    /// The total at the last report.
    total: LossTotal,
    /// When the last report was; `None` if there was none.
    at: Option<Instant>,
    /// When everything lost so far was last known to be reported: the start of the next gap.
    complete_at: Instant,
    /// The counts of the reports within the last minute.
    recent: Vec<(Instant, u64)>,
}

impl Gaps {
    /// The losses in `totals` that were not reported yet. A loss is reported at once, and losses of the same
    /// reason and destination after that at most every ten seconds, unless `is_last` says that no later call
    /// follows.
    pub(crate) fn unreported(&mut self, totals: Vec<LossTotal>, now: Instant, is_last: bool) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for total in totals {
            let reported = self.entry(&total, now);
            reported.recent.retain(|(at, _)| now.duration_since(*at) < RECENT);
            let count = total.count.saturating_sub(reported.total.count);
            if count == 0 {
                reported.complete_at = now;
            } else if is_last || reported.at.is_none_or(|at| now.duration_since(at) >= REPORT_INTERVAL) {
                let LossTotal { reason, ref destination, .. } = total;
                let interval = now.duration_since(reported.complete_at);
                gaps.push(Gap { reason, destination: destination.clone(), count: Some(count), interval });
                reported.recent.push((now, count));
                (reported.total, reported.at, reported.complete_at) = (total, Some(now), now);
            }
        }
        gaps
    }

    /// The entry for the reason and destination of `total`.
    fn entry(&mut self, total: &LossTotal, now: Instant) -> &mut Reported {
        let is_same = |reported: &Reported| {
            (reported.total.reason, &reported.total.destination) == (total.reason, &total.destination)
        };
        let index = self.0.iter().position(is_same).unwrap_or_else(|| {
            let total = LossTotal { count: 0, ..total.clone() };
            self.0.push(Reported { total, at: None, complete_at: now, recent: Vec::new() });
            self.0.len() - 1
        });
        &mut self.0[index]
    }

    /// The losses reported within the last minute, by reason and destination.
    #[must_use]
    pub(crate) fn recent(&self, now: Instant) -> Vec<LossTotal> {
        let recent_total = |reported: &Reported| {
            let recent = reported.recent.iter().filter(|(at, _)| now.duration_since(*at) < RECENT);
            LossTotal { count: recent.map(|(_, count)| count).sum(), ..reported.total.clone() }
        };
        self.0.iter().map(recent_total).filter(|total| total.count > 0).collect()
    }
}

/// The totals of everything lost so far: on the way to the destinations, and by each destination. Records
/// that a stop drops are absent: no record can report them any more.
#[must_use]
pub(crate) fn loss_totals(
    capture: &CaptureLedger,
    destinations: &[(String, LedgerSnapshot)],
) -> Vec<LossTotal> {
    let before_destinations = [
        ("ring", capture.lost.ring),
        ("sockets_gone", capture.lost.sockets_gone),
        ("unended", capture.lost.unended),
        ("skipped", capture.lost.skipped),
        ("malformed", capture.malformed),
        ("too_large", capture.too_large),
    ];
    let mut totals: Vec<LossTotal> = before_destinations
        .into_iter()
        .map(|(reason, count)| LossTotal { reason, destination: None, count })
        .collect();
    for (name, ledger) in destinations {
        let dropped = ledger.dropped.iter().filter(|(reason, _)| **reason != DropReason::Shutdown);
        let dropped = dropped.map(|(reason, count)| (reason.name(), *count));
        totals.extend(dropped.chain([("rejected", ledger.rejected)]).map(|(reason, count)| LossTotal {
            reason,
            destination: Some(name.clone()),
            count,
        }));
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accounting::ledger::DrainCounts, bpf::counters::KernelCounts};

    const SECOND: Duration = Duration::from_secs(1);

    fn total(reason: &'static str, count: u64) -> LossTotal {
        LossTotal { reason, destination: None, count }
    }

    fn gap(reason: &'static str, count: u64, seconds: u32) -> Gap {
        Gap { reason, destination: None, count: Some(count), interval: seconds * SECOND }
    }

    #[test]
    fn a_loss_is_reported_at_once_and_then_every_ten_seconds() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        let mut unreported = |count, seconds, is_last| {
            gaps.unreported(
                vec![total("ring", count), total("malformed", 0)],
                start + seconds * SECOND,
                is_last,
            )
        };
        assert_eq!(unreported(0, 5, false), []);
        assert_eq!(
            unreported(7, 6, false),
            [gap("ring", 7, 1)],
            "the last call without a loss was a second ago"
        );
        assert_eq!(unreported(9, 7, false), []);
        assert_eq!(unreported(9, 16, false), [gap("ring", 2, 10)]);
        assert_eq!(unreported(9, 60, false), [], "no new loss");
        assert_eq!(unreported(10, 61, false), [gap("ring", 1, 1)]);
        assert_eq!(unreported(12, 62, true), [gap("ring", 2, 1)], "no later call follows");
    }

    #[test]
    fn reasons_and_destinations_do_not_wait_for_each_other() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        let dropped = |name: &str, count| LossTotal {
            destination: Some(name.to_owned()),
            ..total("queue_full", count)
        };
        let none = vec![total("ring", 0), dropped("a", 0), dropped("b", 0)];
        assert_eq!(gaps.unreported(none, start, false), []);
        let first = gaps.unreported(vec![total("ring", 1), dropped("a", 0)], start + SECOND, false);
        assert_eq!(first, [gap("ring", 1, 1)]);
        let both = gaps.unreported(
            vec![total("ring", 2), dropped("a", 3), dropped("b", 4)],
            start + 2 * SECOND,
            false,
        );
        let reported: Vec<_> = both.iter().map(|gap| (gap.destination.as_deref(), gap.count)).collect();
        assert_eq!(reported, [(Some("a"), Some(3)), (Some("b"), Some(4))]);
    }

    #[test]
    fn the_last_minute_is_remembered_as_a_whole() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        let mut unreported =
            |count, seconds| gaps.unreported(vec![total("ring", count)], start + seconds * SECOND, false);
        assert_eq!((unreported(7, 0).len(), unreported(9, 20).len(), unreported(9, 30).len()), (1, 1, 0));
        assert_eq!(gaps.recent(start + 40 * SECOND), [total("ring", 9)]);
        assert_eq!(gaps.recent(start + 70 * SECOND), [total("ring", 2)]);
        assert_eq!(gaps.recent(start + 80 * SECOND), []);
    }

    #[test]
    fn each_drop_has_its_destination_and_those_of_a_stop_are_absent() {
        let kernel = KernelCounts::default();
        let capture = CaptureLedger::new(&kernel, &DrainCounts::default(), 0);
        let mut ledger = LedgerSnapshot { rejected: 2, ..LedgerSnapshot::default() };
        ledger.dropped.extend([(DropReason::QueueFull, 3), (DropReason::Shutdown, 9)]);
        let totals = loss_totals(&capture, &[("audit".to_owned(), ledger)]);
        let lost: Vec<_> = totals.into_iter().filter(|total| total.count > 0).collect();
        let loss = |reason, count| LossTotal { reason, destination: Some("audit".to_owned()), count };
        assert_eq!(lost, [loss("queue_full", 3), loss("rejected", 2)]);
    }
}
