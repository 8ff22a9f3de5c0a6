//! The monotonic per-CPU counters of the eBPF programs: totals, outcomes ([`Counter::OUTCOMES`]), reasons for
//! an unverified record, and full maps.

/// Index into the per-CPU array map `COUNTERS`.
///
/// Once no program runs any more, `Seen` and `OtherEvents` together equal the sum of [`Counter::OUTCOMES`].
/// Each term is counted on its own, so the equation is a check and not a definition. The doc of each variant
/// names its group first; [`Counter::Unproven`] is in none. "Full map" also stands for socket or task storage
/// for which the kernel had no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Total: returns of accept or accept4, of either ABI; completed accept requests of io_uring; accepts by
    /// the kernel itself; and accepts whose exit was missed.
    Seen = 0,
    /// Outcome: a sample was handed to the ring buffer.
    Submitted = 1,
    /// Outcome: the ring buffer had no room for the sample.
    LostRing = 2,
    /// Outcome: an event of the agent itself, or of a connection that it opened, is excluded. Not counted if
    /// `filter.self` is set.
    SelfAccept = 3,
    /// Outcome: `EAGAIN`: a non-blocking accept found the queue empty.
    Eagain = 4,
    /// Outcome: `EINTR` and `ERESTART*`: a signal interrupted the accept.
    Interrupted = 5,
    /// Outcome: a failed accept beyond the budget of reported failures.
    FailureOverBudget = 6,
    /// Full map: connections that could not be stored as pending.
    PendingFull = 7,
    /// Unverified: the accepted socket was not pending: queued before the start, TCP fast open, or the map
    /// was full.
    NotPending = 8,
    /// Unverified: the accepted socket was not found. A sibling thread closed or replaced the descriptor
    /// before the hook read it, or io_uring returned a slot of the ring's file table.
    FdGone = 9,
    /// Unverified: the accepted socket has no cookie.
    NoCookie = 10,
    /// Outcome: an accept of a family that this version does not record, such as `AF_ALG`.
    OtherFamily = 11,
    /// Full map: connections opened by the agent that could not be stored as its own.
    OwnFull = 12,
    /// Outcome: a failed accept without a listening socket (`EBADF`, `ENOTSOCK`), which has no record.
    FailureNoListener = 13,
    /// Outcome: an accept whose two descriptors were both closed or replaced before the hook read them, so
    /// neither socket is known.
    SocketsGone = 14,
    /// Total: events other than accepts: related calls, closed listeners, abandoned connections, traced
    /// connections that closed.
    OtherEvents = 15,
    /// Outcome: `filter.*` excludes the event.
    Filtered = 16,
    /// Completions of io_uring without a request, of which no pending connection proves that they were
    /// accepts.
    Unproven = 17,
    /// Full map: failed accepts that are not in the map of failures.
    FailureUncounted = 18,
    /// Full map: calls whose entry could not be stored, so their blocked time is absent.
    BlockedTimesFull = 19,
    /// Outcome: an accept whose exit program the kernel skipped, and of which no sample was stored: another
    /// tool attached a program to the same function, or detached one.
    MissedExit = 20,
    /// Full map: connections with a trace that could not be stored, so their close will not be reported.
    TracedFull = 21,
    /// Full map: accepted connections that are not counted as open. Their duration is not counted either.
    ConnectionStatsFull = 22,
    /// Full map: connections within this host whose client could not be stored, so their records do not name
    /// the client.
    ClientsFull = 23,
    /// Outcome: a failed call that a seccomp filter may have refused, so that it never ran. Tier 2 cannot
    /// distinguish such a call from one that ran, unless the filters always allow it.
    MaybeRefused = 24,
    /// Full map: connection attempts that a full accept queue refused, and that no listener has counted: the
    /// map was full, or the listener was closing.
    RefusedUncounted = 25,
}

impl Counter {
    /// Number of counters: the size of the map.
    pub const COUNT: u32 = 26;

    /// The terms that add up to [`Counter::Seen`] and [`Counter::OtherEvents`].
    pub const OUTCOMES: [Self; 12] = [
        Self::Submitted,
        Self::LostRing,
        Self::SelfAccept,
        Self::Eagain,
        Self::Interrupted,
        Self::FailureOverBudget,
        Self::OtherFamily,
        Self::Filtered,
        Self::FailureNoListener,
        Self::SocketsGone,
        Self::MissedExit,
        Self::MaybeRefused,
    ];
}
