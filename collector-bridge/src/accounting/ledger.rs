//! The capture ledger: counts every event from the hook to the batches by its outcome.
//!
//! Each term is counted on its own, where it happens. The equations of the ledger can therefore fail, and
//! [`CaptureLedger::check`] says which one does.

use acceptd_common::Counter;
use serde::Serialize;

use crate::bpf::counters::KernelCounts;

/// The counts of the drain thread since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainCounts {
    /// Samples read from the ring.
    pub read: u64,
    /// Samples that could not be decoded.
    pub malformed: u64,
    /// Samples that were decoded.
    pub decoded: u64,
    /// Decoded samples that only the agent itself needs, or that the configuration excludes: they are no
    /// records.
    pub bookkeeping: u64,
    /// Records made without a sample: of listeners that were surveyed, of counted failures, of the agent
    /// itself.
    pub made: u64,
    /// How often a listener was not kept because the listener table was full.
    pub listeners_beyond: u64,
    /// Connection attempts that a full queue refused, and that count for no listener.
    pub unassigned_refusals: u64,
    /// Accepts that another record represents (`overload.max_records_per_second`).
    pub thinned: u64,
    /// Records added to a batch.
    pub records: u64,
    /// Records refused because one alone exceeds `batch.max_bytes`.
    pub too_large: u64,
    /// Spans added to a batch.
    pub spans: u64,
    /// Spans refused because one alone exceeds `batch.max_bytes`.
    pub spans_too_large: u64,
}

/// The ledger of one run, from the hook to the batches. Counts of events. Serialized into the summary and
/// `/status`.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct CaptureLedger {
    /// Returns of accept that the hooks saw.
    pub(crate) seen: u64,
    /// Other events that the hooks saw: socket calls, abandoned connections, closed listeners, closed
    /// connections.
    pub(crate) other: u64,
    /// Excluded by family or by `filter.*`.
    pub(crate) filtered: Filtered,
    /// Accepts of the agent itself, excluded unless `filter.self` is set.
    #[serde(rename = "self")]
    pub(crate) own: u64,
    /// Accepts that are only counted, by reason.
    #[serde(rename = "aggregated")]
    pub(crate) only_counted: OnlyCounted,
    /// Events lost before they became a sample, by reason.
    pub(crate) lost: Lost,
    /// Samples submitted to the ring.
    pub(crate) submitted: u64,
    /// Samples in the ring that are not read yet.
    pub(crate) in_ring: u64,
    /// Samples that could not be decoded.
    pub(crate) malformed: u64,
    /// Samples that were decoded.
    pub(crate) decoded: u64,
    /// See [`DrainCounts::bookkeeping`].
    pub(crate) bookkeeping: u64,
    /// See [`DrainCounts::made`].
    pub(crate) made: u64,
    /// See [`DrainCounts::thinned`].
    pub(crate) thinned: u64,
    /// Records added to a batch.
    pub(crate) records: u64,
    /// Records refused because one alone exceeds `batch.max_bytes`.
    pub(crate) too_large: u64,
    /// Spans added to a batch. Not part of the equations.
    pub(crate) spans: u64,
    /// Spans refused because one alone exceeds `batch.max_bytes`. Not part of the equations.
    pub(crate) spans_too_large: u64,
    /// Records with `acceptd.accept.verified=false`, by reason. Not a loss.
    pub(crate) unverified: Unverified,
    /// Things that the agent could not keep because a map or table was full. Not a loss of an event.
    #[serde(rename = "forgotten")]
    pub(crate) not_kept: NotKept,
}

/// See [`CaptureLedger::filtered`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct Filtered {
    /// Sockets of a family that this version does not record.
    pub(crate) family: u64,
    /// Events that `filter.*` excludes.
    pub(crate) filter: u64,
}

/// See [`CaptureLedger::only_counted`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct OnlyCounted {
    /// Failed with `EAGAIN`: the queue was empty.
    pub(crate) again: u64,
    /// Failed with `EINTR` or `ERESTART*`: a signal interrupted the call.
    pub(crate) interrupted: u64,
    /// Failures beyond `capture.failure_budget`.
    pub(crate) failure_budget: u64,
    /// Failures on a descriptor that is no listening socket.
    pub(crate) no_listener: u64,
    /// Failed calls that a seccomp filter may have refused. Tier 2 only.
    pub(crate) seccomp: u64,
}

/// See [`CaptureLedger::lost`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The ring was full.
    pub(crate) ring: u64,
    /// Both sockets were gone before the hook could read them.
    pub(crate) sockets_gone: u64,
    /// The hooks missed the exit of the call.
    pub(crate) unended: u64,
    /// At most so many accepts were seen by no program, because the kernel skipped the programs. Not part of
    /// the equations: these events are not among the seen ones.
    pub(crate) skipped: u64,
}

/// See [`CaptureLedger::unverified`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct Unverified {
    /// The connection was established before the start, or not by a three-way handshake.
    pub(crate) not_pending: u64,
    /// The map of pending connections was full.
    pub(crate) pending_full: u64,
    /// The descriptor was closed or replaced before the hook could read it.
    pub(crate) fd_gone: u64,
    /// The socket has no cookie.
    pub(crate) no_cookie: u64,
    /// Completions of io_uring that may have been accepts, but that no hook can prove: they are no records,
    /// and not part of the equations.
    pub(crate) io_uring: u64,
}

/// See [`CaptureLedger::not_kept`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct NotKept {
    /// Failures that no count of `acceptd.listener.failures` includes.
    pub(crate) failures: u64,
    /// Calls whose blocked time is absent.
    pub(crate) blocked_times: u64,
    /// Connections of the agent that it cannot distinguish from those of other processes.
    pub(crate) own_connections: u64,
    /// How often a listener was not kept: it has no metrics and no events.
    pub(crate) listeners: u64,
    /// Connections whose trace has no root span, because their end cannot be seen.
    pub(crate) traces: u64,
    /// Connections that `acceptd.connection.*` does not count.
    #[serde(rename = "lives")]
    pub(crate) connections: u64,
    /// Connections within the host whose client process is not recorded.
    pub(crate) peers: u64,
    /// Connection attempts that a full accept queue refused, and that no listener's overflows include: it is
    /// not known which listener it was, or the programs' map was full.
    pub(crate) refusals: u64,
}

impl Lost {
    /// Events that a program saw, and that were lost.
    #[must_use]
    pub(crate) const fn sum(&self) -> u64 {
        self.ring + self.sockets_gone + self.unended
    }
}

impl CaptureLedger {
    /// The ledger of these counts. While the programs run, `kernel` must have been read after `drain`, or
    /// more samples may have been read than submitted. `unseen` accepts were seen by no program.
    #[must_use]
    pub(crate) fn new(kernel: &KernelCounts, drain: &DrainCounts, unseen: u64) -> Self {
        let submitted = kernel.get(Counter::Submitted);
        Self {
            seen: kernel.get(Counter::Seen),
            other: kernel.get(Counter::OtherEvents),
            filtered: Filtered {
                family: kernel.get(Counter::OtherFamily),
                filter: kernel.get(Counter::Filtered),
            },
            own: kernel.get(Counter::SelfAccept),
            only_counted: OnlyCounted {
                again: kernel.get(Counter::Eagain),
                interrupted: kernel.get(Counter::Interrupted),
                failure_budget: kernel.get(Counter::FailureOverBudget),
                no_listener: kernel.get(Counter::FailureNoListener),
                seccomp: kernel.get(Counter::MaybeRefused),
            },
            lost: Lost {
                ring: kernel.get(Counter::LostRing),
                sockets_gone: kernel.get(Counter::SocketsGone),
                unended: kernel.get(Counter::MissedExit),
                skipped: unseen,
            },
            submitted,
            in_ring: submitted.saturating_sub(drain.read),
            malformed: drain.malformed,
            decoded: drain.decoded,
            bookkeeping: drain.bookkeeping,
            made: drain.made,
            thinned: drain.thinned,
            records: drain.records,
            too_large: drain.too_large,
            spans: drain.spans,
            spans_too_large: drain.spans_too_large,
            unverified: Unverified {
                not_pending: kernel.get(Counter::NotPending),
                pending_full: kernel.get(Counter::PendingFull),
                fd_gone: kernel.get(Counter::FdGone),
                no_cookie: kernel.get(Counter::NoCookie),
                io_uring: kernel.get(Counter::Unproven),
            },
            not_kept: NotKept {
                failures: kernel.get(Counter::FailureUncounted),
                blocked_times: kernel.get(Counter::BlockedTimesFull),
                own_connections: kernel.get(Counter::OwnFull),
                listeners: drain.listeners_beyond,
                traces: kernel.get(Counter::TracedFull),
                connections: kernel.get(Counter::ConnectionStatsFull),
                peers: kernel.get(Counter::ClientsFull),
                refusals: kernel.get(Counter::RefusedUncounted) + drain.unassigned_refusals,
            },
        }
    }

    /// Checks the equations, which hold after a drained stop.
    ///
    /// # Errors
    /// The first equation that does not hold, with its numbers.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { only_counted, lost, .. } = self;
        let only_counted = only_counted.again
            + only_counted.interrupted
            + only_counted.failure_budget
            + only_counted.no_listener
            + only_counted.seccomp;
        let lost = lost.sum();
        equal(
            "seen + other = filtered + self + aggregated + lost + submitted",
            self.seen + self.other,
            &[self.filtered.family, self.filtered.filter, self.own, only_counted, lost, self.submitted],
        )?;
        equal(
            "submitted = in_ring + malformed + decoded",
            self.submitted,
            &[0, self.malformed, self.decoded],
        )?;
        equal(
            "decoded + made = records + thinned + too_large + bookkeeping",
            self.decoded + self.made,
            &[self.records, self.thinned, self.too_large, self.bookkeeping],
        )
    }
}

/// Checks that the sum of `right` is `left`.
fn equal(equation: &str, left: u64, right: &[u64]) -> Result<(), String> {
    if left == right.iter().sum::<u64>() {
        Ok(())
    } else {
        Err(format!("{equation} does not hold: {left} and {right:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_in_the_first_equation() {
        let mut kernel = KernelCounts::default();
        let mut seen = 0;
        for (value, part) in (1..).zip(Counter::OUTCOMES) {
            kernel = kernel.with(part, value);
            seen += value;
        }
        let read = kernel.get(Counter::Submitted);
        let drain = DrainCounts { read, decoded: read, records: read, ..DrainCounts::default() };
        assert_eq!(CaptureLedger::new(&kernel.with(Counter::Seen, seen), &drain, 0).check(), Ok(()));
        for part in Counter::OUTCOMES {
            let off_by_one = kernel.with(Counter::Seen, seen).with(part, kernel.get(part) + 1);
            CaptureLedger::new(&off_by_one, &drain, 0).check().expect_err("one too many");
        }
    }

    #[test]
    fn an_accept_that_no_program_saw_is_lost_but_not_seen() {
        let kernel = KernelCounts::default().with(Counter::Seen, 2).with(Counter::Submitted, 2);
        let drain = DrainCounts { read: 2, decoded: 2, records: 2, ..DrainCounts::default() };
        let ledger = CaptureLedger::new(&kernel, &drain, 5);
        assert_eq!((ledger.seen, ledger.lost.sum(), ledger.lost.skipped), (2, 0, 5));
        assert_eq!(ledger.check(), Ok(()));
    }

    #[test]
    fn a_record_that_vanishes_in_user_space_is_noticed() {
        let kernel = KernelCounts::default().with(Counter::Seen, 4).with(Counter::Submitted, 4);
        let whole = DrainCounts {
            read: 4,
            malformed: 1,
            decoded: 3,
            bookkeeping: 1,
            made: 1,
            thinned: 1,
            records: 1,
            too_large: 1,
            ..DrainCounts::default()
        };
        assert_eq!(CaptureLedger::new(&kernel, &whole, 0).check(), Ok(()));
        for part in [
            DrainCounts { malformed: 0, ..whole },
            DrainCounts { decoded: 2, ..whole },
            DrainCounts { thinned: 0, ..whole },
            DrainCounts { records: 0, ..whole },
            DrainCounts { bookkeeping: 0, ..whole },
            DrainCounts { made: 0, ..whole },
        ] {
            CaptureLedger::new(&kernel, &part, 0).check().expect_err("one is missing");
        }
    }
}
