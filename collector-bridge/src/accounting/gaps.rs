//! What is missing, and since when: counts of losses, told as differences. Pure.

use std::time::{Duration, Instant};

use acceptd_otlp::{DropReason, LedgerSnapshot};

use crate::accounting::ledger::CaptureLedger;

/// Shortest time between two gaps of one reason and destination.
const EVERY: Duration = Duration::from_secs(10);

/// The reason of what nobody counted.
pub const AGENT_NOT_RUNNING: &str = "agent_not_running";

/// Events that are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// A value of `acceptd.loss.reason`.
    pub reason: &'static str,
    /// The destination that they did not reach; nothing when they are nowhere.
    pub destination: Option<String>,
    /// How many; nothing when nobody knows.
    pub count: Option<u64>,
    /// In how long.
    pub interval: Duration,
}

/// Everything that was lost so far for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// See [`Gap`].
    pub reason: &'static str,
    /// See [`Gap`].
    pub destination: Option<String>,
    /// How many.
    pub count: u64,
}

/// Losses, of which some were told.
#[derive(Debug, Default)]
pub struct Gaps(Vec<Told>);

#[derive(Debug)]
struct Told {
    /// What was told.
    total: Total,
    /// When it was, if it ever was.
    at: Option<Instant>,
    /// When there was last nothing to tell.
    whole: Instant,
    /// What was told within a minute.
    recent: Vec<(Instant, u64)>,
}

/// How long a gap is remembered.
const RECENT: Duration = Duration::from_mins(1);

impl Gaps {
    /// What is missing of `totals` and was not told. Each reason is told at once, and then no more often than every ten seconds;
    /// `is_last` says that there will be no later time.
    pub fn untold(&mut self, totals: Vec<Total>, now: Instant, is_last: bool) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for total in totals {
            let told = self.of(&total, now);
            told.recent.retain(|(at, _)| now.duration_since(*at) < RECENT);
            let count = total.count.saturating_sub(told.total.count);
            if count == 0 {
                told.whole = now;
            } else if is_last || told.at.is_none_or(|at| now.duration_since(at) >= EVERY) {
                let Total { reason, ref destination, .. } = total;
                let interval = now.duration_since(told.whole);
                gaps.push(Gap { reason, destination: destination.clone(), count: Some(count), interval });
                told.recent.push((now, count));
                (told.total, told.at, told.whole) = (total, Some(now), now);
            }
        }
        gaps
    }

    fn of(&mut self, total: &Total, now: Instant) -> &mut Told {
        let same =
            |told: &Told| (told.total.reason, &told.total.destination) == (total.reason, &total.destination);
        let place = self.0.iter().position(same).unwrap_or_else(|| {
            let none = Total { count: 0, ..total.clone() };
            self.0.push(Told { total: none, at: None, whole: now, recent: Vec::new() });
            self.0.len() - 1
        });
        &mut self.0[place]
    }

    /// What was told within a minute, by reason and destination.
    #[must_use]
    pub fn recent(&self, now: Instant) -> Vec<Total> {
        let of = |told: &Told| {
            let recent = told.recent.iter().filter(|(at, _)| now.duration_since(*at) < RECENT);
            Total { count: recent.map(|(_, count)| count).sum(), ..told.total.clone() }
        };
        self.0.iter().map(of).filter(|total| total.count > 0).collect()
    }
}

/// The totals: lost on the way to the destinations, and by each of them. What a stop drops cannot be told any more.
#[must_use]
pub fn totals(capture: &CaptureLedger, destinations: &[(String, LedgerSnapshot)]) -> Vec<Total> {
    let nowhere = [
        ("ring", capture.lost.ring),
        ("sockets_gone", capture.lost.sockets_gone),
        ("unended", capture.lost.unended),
        ("malformed", capture.malformed),
        ("too_large", capture.too_large),
    ];
    let mut totals: Vec<Total> =
        nowhere.into_iter().map(|(reason, count)| Total { reason, destination: None, count }).collect();
    for (name, ledger) in destinations {
        let dropped = ledger.dropped.iter().filter(|(reason, _)| **reason != DropReason::Shutdown);
        let dropped = dropped.map(|(reason, count)| (reason.name(), *count));
        totals.extend(dropped.chain([("rejected", ledger.rejected)]).map(|(reason, count)| Total {
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

    const SECOND: Duration = Duration::from_secs(1);

    fn total(reason: &'static str, count: u64) -> Total {
        Total { reason, destination: None, count }
    }

    fn gap(reason: &'static str, count: u64, seconds: u32) -> Gap {
        Gap { reason, destination: None, count: Some(count), interval: seconds * SECOND }
    }

    #[test]
    fn a_loss_is_told_at_once_and_then_every_ten_seconds() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        let mut untold = |count, seconds, is_last| {
            gaps.untold(vec![total("ring", count), total("malformed", 0)], start + seconds * SECOND, is_last)
        };
        assert_eq!(untold(0, 5, false), []);
        assert_eq!(untold(7, 6, false), [gap("ring", 7, 1)], "a second ago it was whole");
        assert_eq!(untold(9, 7, false), []);
        assert_eq!(untold(9, 16, false), [gap("ring", 2, 10)]);
        assert_eq!(untold(9, 60, false), [], "nothing new");
        assert_eq!(untold(10, 61, false), [gap("ring", 1, 1)]);
        assert_eq!(untold(12, 62, true), [gap("ring", 2, 1)], "there is no later time");
    }

    #[test]
    fn reasons_and_destinations_do_not_wait_for_each_other() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        let of =
            |name: &str, count| Total { destination: Some(name.to_owned()), ..total("queue_full", count) };
        let none = vec![total("ring", 0), of("a", 0), of("b", 0)];
        assert_eq!(gaps.untold(none, start, false), []);
        let first = gaps.untold(vec![total("ring", 1), of("a", 0)], start + SECOND, false);
        assert_eq!(first, [gap("ring", 1, 1)]);
        let both = gaps.untold(vec![total("ring", 2), of("a", 3), of("b", 4)], start + 2 * SECOND, false);
        let told: Vec<_> = both.iter().map(|gap| (gap.destination.as_deref(), gap.count)).collect();
        assert_eq!(told, [(Some("a"), Some(3)), (Some("b"), Some(4))]);
    }

    #[test]
    fn the_last_minute_is_remembered_as_a_whole() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        let mut untold =
            |count, seconds| gaps.untold(vec![total("ring", count)], start + seconds * SECOND, false);
        assert_eq!((untold(7, 0).len(), untold(9, 20).len(), untold(9, 30).len()), (1, 1, 0));
        assert_eq!(gaps.recent(start + 40 * SECOND), [total("ring", 9)]);
        assert_eq!(gaps.recent(start + 70 * SECOND), [total("ring", 2)]);
        assert_eq!(gaps.recent(start + 80 * SECOND), []);
    }

    #[test]
    fn each_drop_is_of_its_destination_and_a_stop_is_not_told() {
        let kernel = crate::bpf::counters::KernelCounts::default();
        let capture = CaptureLedger::new(&kernel, &crate::accounting::ledger::DrainCounts::default());
        let mut ledger = LedgerSnapshot { rejected: 2, ..LedgerSnapshot::default() };
        ledger.dropped.extend([(DropReason::QueueFull, 3), (DropReason::Shutdown, 9)]);
        let totals = totals(&capture, &[("audit".to_owned(), ledger)]);
        let lost: Vec<_> = totals.into_iter().filter(|total| total.count > 0).collect();
        let of = |reason, count| Total { reason, destination: Some("audit".to_owned()), count };
        assert_eq!(lost, [of("queue_full", 3), of("rejected", 2)]);
    }
}
