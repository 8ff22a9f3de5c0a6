//! The monotonic per-CPU counters of the eBPF programs: one for each way to exclude or lose an event.

/// Index into the per-CPU array map `COUNTERS`.
///
/// Once no program runs any more, `Seen` and `Other` together equal the sum of [`Counter::OUTCOMES`]. Each
/// term is counted on its own, so that the equation is a check and not a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Returns of accept or accept4, of either ABI, and completed accept requests of io_uring.
    Seen = 0,
    /// Samples handed to the ring buffer.
    Submitted = 1,
    /// Samples for which the ring buffer had no room.
    LostRing = 2,
    /// Accepts by the agent, or of connections that it opened. Excluded unless `filter.self` is set.
    SelfAccept = 3,
    /// `EAGAIN`: a non-blocking accept found the queue empty.
    Eagain = 4,
    /// `EINTR` and `ERESTART*`: a signal interrupted the accept.
    Interrupted = 5,
    /// Failed accepts beyond the budget of reported failures.
    FailureOverBudget = 6,
    /// Connections that could not be stored as pending, because the map was full.
    PendingFull = 7,
    /// Accepted sockets that were not pending: queued before the start, TCP fast open, or the map was full.
    NotPending = 8,
    /// A sibling thread closed or replaced the descriptor before the hook read it.
    FdGone = 9,
    /// Accepted sockets without a cookie.
    NoCookie = 10,
    /// Accepts of families that this version does not record, such as `AF_ALG`.
    OtherFamily = 11,
    /// Connections opened by the agent that could not be stored as its own, because the map was full.
    OwnFull = 12,
    /// Failed accepts without a listening socket (`EBADF`, `ENOTSOCK`), which no record can be filed under.
    FailureNoListener = 13,
    /// Accepts of which both descriptors were closed or replaced before the hook read them: no more is
    /// known.
    SocketsGone = 14,
    /// Events other than accepts: related calls, closed listeners, abandoned connections, traced connections
    /// that closed.
    Other = 15,
    /// Events that `filter.*` excludes.
    Filtered = 16,
    /// Completions of io_uring without a request, of which no pending connection proves that they were
    /// accepts.
    Unproven = 17,
    /// Failed accepts that are not in the map of failures, because it was full.
    FailureUncounted = 18,
    /// Calls whose entry could not be stored, so that their blocked time is absent.
    BlockedTimesFull = 19,
    /// Accepts whose exit the kernel did not show and of which no sample was stored: another tool attached a
    /// program to the same function, or detached one.
    MissedExit = 20,
    /// Connections with a trace whose close will not be reported, because they could not be stored.
    TracedFull = 21,
    /// Accepted connections that are not counted as open, because a map was full. Their duration is not
    /// counted either.
    ConnectionStatsFull = 22,
    /// Connections within this host whose client could not be stored, so that their records do not name the
    /// client.
    ClientsFull = 23,
}

impl Counter {
    /// Number of counters: the size of the map.
    pub const COUNT: u32 = 24;

    /// The terms that add up to [`Counter::Seen`] and [`Counter::Other`].
    pub const OUTCOMES: [Self; 11] = [
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
    ];
}
