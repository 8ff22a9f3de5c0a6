//! Connection attempts that full accept queues refused, for each listener, by the kernel's counters. No I/O.
//!
//! The programs of tier 1 count the attempts themselves. In tier 2 there are two counters of the kernel for
//! TCP: `sk_drops` of a listener, which also grows for other reasons, and `ListenOverflows`, which is exact
//! but counts for a whole network namespace. A listener refused no more than either of them grew.

use acceptd_common::{ListenerState, RefusedAttempts};
use foldhash::{HashMap, HashMapExt as _};

/// Shortest time between two findings of one listener, in nanoseconds.
const FINDING_INTERVAL_NS: u64 = 1_000_000_000;

/// The part of a finding that concerns a full queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Overflow {
    /// Connection attempts that were refused because the queue was full.
    pub(crate) refused: u64,
    /// Calls of connect that waited until the queue had room (UNIX sockets).
    pub(crate) waited: u64,
    /// How long these waited together, in nanoseconds.
    pub(crate) waited_ns: u64,
    /// Packets that the kernel dropped at the listener, as far as they are none of the refused attempts.
    pub(crate) dropped: u64,
}

/// The counts of one listener's full queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QueueOverflow {
    /// `sk_drops` in the last state that was observed.
    drops: u32,
    /// The programs' counts in that state.
    counted: RefusedAttempts,
    /// Growth of `sk_drops` that was not yet compared with `ListenOverflows`.
    grown: u32,
    /// Growth of `sk_drops` that is no refused attempt so far. Negative when a program counted an attempt
    /// after `sk_drops` was read.
    unexplained: i64,
    /// Whether the queue was seen full since the last comparison.
    was_full: bool,
    unreported: Overflow,
    /// Time of the last finding.
    reported_at: Option<u64>,
}

impl QueueOverflow {
    /// Ignores everything before `state`.
    pub(super) fn starting_at(state: &ListenerState) -> Self {
        Self { drops: state.listener.drops, ..Self::default() }
    }

    /// Takes the state of the listener at this moment.
    pub(super) fn observe(&mut self, state: &ListenerState) {
        // The count may wrap; a state that is older than the last one does not count.
        let grown = state.listener.drops.wrapping_sub(self.drops);
        let grown = if grown > u32::MAX / 2 { 0 } else { grown };
        self.drops = self.drops.wrapping_add(grown);
        self.grown = self.grown.saturating_add(grown);
        self.unexplained = self.unexplained.saturating_add(i64::from(grown));
        self.was_full |= state.listener.backlog_length > state.listener.backlog_limit;
        self.observe_counted(state.refused);
    }

    /// Takes the programs' counts, which only grow.
    pub(super) fn observe_counted(&mut self, counted: RefusedAttempts) {
        let RefusedAttempts { refused, waited, waited_ns } = counted;
        self.refused(refused.saturating_sub(self.counted.refused));
        let Overflow { waited: more, waited_ns: longer, .. } = &mut self.unreported;
        *more = more.saturating_add(waited.saturating_sub(self.counted.waited));
        *longer = longer.saturating_add(waited_ns.saturating_sub(self.counted.waited_ns));
        self.counted = RefusedAttempts {
            refused: refused.max(self.counted.refused),
            waited: waited.max(self.counted.waited),
            waited_ns: waited_ns.max(self.counted.waited_ns),
        };
    }

    /// An accept left `length` connections in the queue: before it, there was one more.
    pub(super) fn accepted(&mut self, length: u32, limit: u32) {
        self.was_full |= length >= limit;
    }

    /// Whether `sk_drops` has grown since the last comparison.
    pub(super) fn has_grown(&self) -> bool {
        self.grown > 0
    }

    /// The growth of `sk_drops` since the last comparison, for [`share`].
    pub(super) fn growth(&self) -> Growth {
        Growth { drops: u64::from(self.grown), was_full: self.was_full }
    }

    /// The growth was compared: `refused` attempts are this listener's.
    pub(super) fn settle(&mut self, refused: u64) {
        self.refused(refused);
        (self.grown, self.was_full) = (0, false);
    }

    /// Attempts were refused because the queue was full.
    pub(super) fn refused(&mut self, count: u64) {
        self.unreported.refused = self.unreported.refused.saturating_add(count);
        self.unexplained = self.unexplained.saturating_sub_unsigned(count);
    }

    /// Takes what a finding at `now` reports, at most once a second, unless the listener has closed.
    pub(super) fn take(&mut self, now: u64, has_closed: bool) -> Option<Overflow> {
        let is_due = self.reported_at.is_none_or(|last| now.saturating_sub(last) >= FINDING_INTERVAL_NS);
        if !is_due && !has_closed {
            return None;
        }
        let dropped = u64::try_from(self.unexplained).unwrap_or(0);
        let found = Overflow { dropped, ..self.unreported };
        if found == Overflow::default() {
            return None;
        }
        self.unexplained = self.unexplained.min(0);
        self.unreported = Overflow::default();
        self.reported_at = Some(now);
        Some(found)
    }
}

/// How `sk_drops` of one listener grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Growth {
    /// By how much.
    pub(super) drops: u64,
    /// Whether the listener's queue was seen full meanwhile.
    pub(super) was_full: bool,
}

/// How many of the `overflows` of a network namespace are those of each listener whose `sk_drops` grew. The
/// sum is never more than `overflows`, and no listener gets more than its own growth.
///
/// With several listeners, each gets what the others together cannot have had. The rest is given to those
/// whose queue was seen full. Without such a listener it is not given to any: it is not known whose it is.
pub(super) fn share(overflows: u64, growths: &[Growth]) -> Vec<u64> {
    let all: u64 = growths.iter().map(|growth| growth.drops).sum();
    let overflows = overflows.min(all);
    let mut shares: Vec<u64> =
        growths.iter().map(|growth| overflows.saturating_sub(all - growth.drops)).collect();
    let mut rest = overflows.saturating_sub(shares.iter().sum());
    for (share, growth) in shares.iter_mut().zip(growths).filter(|(_, growth)| growth.was_full) {
        let more = rest.min(growth.drops - *share);
        *share += more;
        rest -= more;
    }
    shares
}

/// `ListenOverflows` of one network namespace.
#[derive(Debug, Clone, Copy, Default)]
struct Namespace {
    /// The value when it was last read; `None` if it could not be read yet.
    total: Option<u64>,
    /// Overflows before the last read that no listener has got. Only the next comparison may use them: the
    /// kernel's counter is read after the listeners, so a later survey shows these drops.
    left: u64,
    /// Whether there was a comparison since the last survey.
    is_compared: bool,
    /// Whether the value could not be read since `total`: overflows since then are older than the growth of
    /// the listeners.
    is_missed: bool,
}

/// `ListenOverflows` of the network namespaces that have TCP listeners.
#[derive(Debug, Default)]
pub(crate) struct NamespaceOverflows {
    known: HashMap<u32, Namespace>,
    /// Overflows that no listener has got.
    unassigned: u64,
}

impl NamespaceOverflows {
    /// Without a namespace.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { known: HashMap::new(), unassigned: 0 }
    }

    /// Whether [`Self::begin`] was called for the namespace.
    #[must_use]
    pub(crate) fn contains(&self, netns: u32) -> bool {
        self.known.contains_key(&netns)
    }

    /// Whether the value of the namespace is known.
    #[must_use]
    pub(crate) fn is_read(&self, netns: u32) -> bool {
        self.known.get(&netns).is_some_and(|namespace| namespace.total.is_some())
    }

    /// Begins to follow a namespace, and ignores what it counted before. `total` is `None` if the value
    /// cannot be read.
    pub(crate) fn begin(&mut self, netns: u32, total: Option<u64>) {
        self.known.insert(netns, Namespace { total, ..Namespace::default() });
    }

    /// Compares the value of this moment with how the listeners of the namespace grew. Returns the share of
    /// each; nothing if the value before is not known, or if a comparison since then missed one.
    pub(super) fn compare(&mut self, netns: u32, total: u64, growths: &[Growth]) -> Vec<u64> {
        let namespace = self.known.entry(netns).or_default();
        // The kernel reuses the inode numbers of network namespaces: a smaller value is that of a new one.
        let grown = namespace.total.map_or(0, |before| total.checked_sub(before).unwrap_or(total));
        let all = grown.saturating_add(namespace.left);
        let shares = if namespace.is_missed { Vec::new() } else { share(all, growths) };
        let unused = all.saturating_sub(shares.iter().sum());
        let left = if namespace.is_missed { 0 } else { unused.min(grown) };
        self.unassigned = self.unassigned.saturating_add(unused - left);
        *namespace = Namespace { total: Some(total), left, is_compared: true, is_missed: false };
        shares
    }

    /// The value of the namespace could not be read at a comparison.
    pub(super) fn miss(&mut self, netns: u32) {
        if let Some(namespace) = self.known.get_mut(&netns) {
            namespace.is_missed = true;
        }
    }

    /// Forgets a namespace without listeners. It may be gone, and its inode number may be that of another one
    /// soon.
    pub(super) fn forget(&mut self, netns: u32) {
        self.unassigned += self.known.remove(&netns).map_or(0, |namespace| namespace.left);
    }

    /// A survey is over, after which the namespaces that `is_used` returns false for have no listeners.
    /// Overflows that a namespace had left before are unassigned if `sk_drops` of no listener has grown.
    pub(crate) fn end_survey(&mut self, is_used: impl Fn(u32) -> bool) {
        self.known.retain(|netns, namespace| {
            let keeps = is_used(*netns);
            if !keeps || !namespace.is_compared {
                self.unassigned += std::mem::take(&mut namespace.left);
            }
            namespace.is_compared = false;
            keeps
        });
    }

    /// Number of overflows that no listener has got, because it was not known whose they were.
    #[must_use]
    pub(crate) fn unassigned(&self) -> u64 {
        self.unassigned
    }
}

#[cfg(test)]
mod tests;
