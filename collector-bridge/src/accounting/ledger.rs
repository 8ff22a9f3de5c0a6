//! What happened to every event from the hook to the pipeline, each term counted on its own where it happens.
//!
//! The equations of the ledger can therefore fail, and [`CaptureLedger::check`] says which did.

use acceptd_common::Counter;
use serde::Serialize;

use crate::bpf::counters::KernelCounts;

/// What the drain thread counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainCounts {
    /// Samples taken from the ring.
    pub read: u64,
    /// Samples that could not be decoded.
    pub malformed: u64,
    /// Samples that became events.
    pub decoded: u64,
    /// Events that only the agent needed, and that are no records.
    pub bookkeeping: u64,
    /// Records made without a sample: what was found of listeners.
    pub made: u64,
    /// Times that a listener was not kept because there were too many.
    pub listeners_beyond: u64,
    /// Accepts that another record stands for (`overload.max_records_per_second`).
    pub thinned: u64,
    /// Records handed to the destinations.
    pub records: u64,
    /// Records refused because one alone exceeds `batch.max_bytes`.
    pub too_large: u64,
    /// Spans handed to their destination.
    pub spans: u64,
    /// Spans refused because one alone exceeds `batch.max_bytes`.
    pub spans_too_large: u64,
}

/// The ledger of one capture epoch, from the hook to the batches. Counts of events.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct CaptureLedger {
    /// Returns of accept that the hooks saw.
    pub seen: u64,
    /// Other events: related calls, abandoned connections, closed listeners.
    pub other: u64,
    /// Left out, by reason.
    pub filtered: Filtered,
    /// The agent's own, left out.
    #[serde(rename = "self")]
    pub own: u64,
    /// Only counted, by reason.
    pub aggregated: Aggregated,
    /// Lost before they were a sample, by reason.
    pub lost: Lost,
    /// Samples handed to the ring.
    pub submitted: u64,
    /// Samples in the ring that were not read yet.
    pub in_ring: u64,
    /// Samples that could not be decoded.
    pub malformed: u64,
    /// Samples that became events.
    pub decoded: u64,
    /// Events that only the agent needed, and that are no records.
    pub bookkeeping: u64,
    /// Records made without a sample.
    pub made: u64,
    /// Accepts that another record stands for.
    pub thinned: u64,
    /// Records handed to the destinations.
    pub records: u64,
    /// Records dropped because one alone exceeds `batch.max_bytes`.
    pub too_large: u64,
    /// Spans handed to their destination. They stand beside the records.
    pub spans: u64,
    /// Spans dropped because one alone exceeds `batch.max_bytes`.
    pub spans_too_large: u64,
    /// Records with `acceptd.accept.verified=false`, by reason. Not a loss.
    pub unverified: Unverified,
    /// What could not be remembered because a map was full. Not a loss of an event.
    pub forgotten: Forgotten,
}

/// See [`CaptureLedger::filtered`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Filtered {
    /// Families that this version does not record.
    pub family: u64,
    /// What `filter.*` does not let pass.
    pub filter: u64,
}

/// See [`CaptureLedger::aggregated`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Aggregated {
    /// `EAGAIN`.
    pub again: u64,
    /// `EINTR`, `ERESTART*`.
    pub interrupted: u64,
    /// Failures beyond the budget of records.
    pub failure_budget: u64,
    /// Failures without a listening socket.
    pub no_listener: u64,
}

/// See [`CaptureLedger::lost`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Lost {
    /// The ring was full.
    pub ring: u64,
    /// Both sockets were gone before the hook could look.
    pub sockets_gone: u64,
    /// The kernel did not show the end of the call.
    pub unended: u64,
}

/// See [`CaptureLedger::unverified`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Unverified {
    /// Established before the start, or not by a three-way handshake.
    pub not_pending: u64,
    /// Connections that could not be remembered.
    pub pending_full: u64,
    /// The descriptor was closed or replaced.
    pub fd_gone: u64,
    /// The socket has no cookie.
    pub no_cookie: u64,
    /// Completions of io_uring that may have been accepts and are no records: nothing proves it. Stands beside the
    /// equations.
    pub io_uring: u64,
}

/// See [`CaptureLedger::forgotten`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Forgotten {
    /// Failures that are in no count of `acceptd.listener.failures`.
    pub failures: u64,
    /// Calls whose blocked time is absent.
    pub blocked_times: u64,
    /// Connections of the agent that are not known as its own.
    pub own_connections: u64,
    /// Times that a listener was not kept: nothing is said of its health.
    pub listeners: u64,
    /// Connections whose trace has no root, because their end could not be seen.
    pub traces: u64,
    /// Connections that are not in `acceptd.connection.*`.
    pub lives: u64,
    /// Connections within the host of which nobody is told who connected.
    pub peers: u64,
}

impl Lost {
    /// All of them.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.ring + self.sockets_gone + self.unended
    }
}

impl CaptureLedger {
    /// The ledger of these counts. While the programs run, `kernel` must have been read after `drain`.
    #[must_use]
    pub fn new(kernel: &KernelCounts, drain: &DrainCounts) -> Self {
        let submitted = kernel.get(Counter::Submitted);
        Self {
            seen: kernel.get(Counter::Seen),
            other: kernel.get(Counter::Other),
            filtered: Filtered {
                family: kernel.get(Counter::OtherFamily),
                filter: kernel.get(Counter::Filtered),
            },
            own: kernel.get(Counter::SelfAccept),
            aggregated: Aggregated {
                again: kernel.get(Counter::Eagain),
                interrupted: kernel.get(Counter::Interrupted),
                failure_budget: kernel.get(Counter::FailureOverBudget),
                no_listener: kernel.get(Counter::FailureNoListener),
            },
            lost: Lost {
                ring: kernel.get(Counter::LostRing),
                sockets_gone: kernel.get(Counter::SocketsGone),
                unended: kernel.get(Counter::Unended),
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
            forgotten: Forgotten {
                failures: kernel.get(Counter::FailureUntold),
                blocked_times: kernel.get(Counter::BlockedFull),
                own_connections: kernel.get(Counter::OwnFull),
                listeners: drain.listeners_beyond,
                traces: kernel.get(Counter::OpenFull),
                lives: kernel.get(Counter::LivesFull),
                peers: kernel.get(Counter::PeersFull),
            },
        }
    }

    /// The equations that hold after a drained stop.
    ///
    /// # Errors
    /// The first equation that does not add up, with its numbers.
    pub fn check(&self) -> Result<(), String> {
        let Self { aggregated, lost, .. } = self;
        let aggregated =
            aggregated.again + aggregated.interrupted + aggregated.failure_budget + aggregated.no_listener;
        let lost = lost.sum();
        equal(
            "seen + other = filtered + self + aggregated + lost + submitted",
            self.seen + self.other,
            &[self.filtered.family, self.filtered.filter, self.own, aggregated, lost, self.submitted],
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
    fn every_part_of_seen_is_in_the_first_equation() {
        let mut kernel = KernelCounts::default();
        let mut seen = 0;
        for (value, part) in (1..).zip(Counter::PARTS_OF_SEEN) {
            kernel = kernel.with(part, value);
            seen += value;
        }
        let read = kernel.get(Counter::Submitted);
        let drain = DrainCounts { read, decoded: read, records: read, ..DrainCounts::default() };
        assert_eq!(CaptureLedger::new(&kernel.with(Counter::Seen, seen), &drain).check(), Ok(()));
        for part in Counter::PARTS_OF_SEEN {
            let off_by_one = kernel.with(Counter::Seen, seen).with(part, kernel.get(part) + 1);
            CaptureLedger::new(&off_by_one, &drain).check().expect_err("one too many");
        }
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
        assert_eq!(CaptureLedger::new(&kernel, &whole).check(), Ok(()));
        for part in [
            DrainCounts { malformed: 0, ..whole },
            DrainCounts { decoded: 2, ..whole },
            DrainCounts { thinned: 0, ..whole },
            DrainCounts { records: 0, ..whole },
            DrainCounts { bookkeeping: 0, ..whole },
            DrainCounts { made: 0, ..whole },
        ] {
            CaptureLedger::new(&kernel, &part).check().expect_err("one is missing");
        }
    }
}
