//! The monotonic per-CPU counters of the eBPF programs: one for each way to leave out or lose an event.

/// Index into the per-CPU array map `COUNTERS`.
///
/// `Seen` and `Other` together equal the sum of [`Counter::PARTS_OF_SEEN`] once no program runs any more; each term is counted
/// on its own, so the equation is a check and not a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Every return of accept or accept4, of either ABI, and every completed accept request of io_uring.
    Seen = 0,
    /// Samples handed to the ring buffer.
    Submitted = 1,
    /// Samples for which the ring buffer had no room.
    LostRing = 2,
    /// Accepts by the agent, or of connections that it opened; left out unless `filter.self` is set.
    SelfAccept = 3,
    /// `EAGAIN`: a non-blocking accept that found the queue empty.
    Eagain = 4,
    /// `EINTR` and `ERESTART*`: an accept that a signal interrupted.
    Interrupted = 5,
    /// Failures beyond the budget of records.
    FailureOverBudget = 6,
    /// Connections that could not be remembered as pending, because the map was full.
    PendingFull = 7,
    /// Accepted sockets that were not pending: queued before the start, TCP fast open, or the map was full.
    NotPending = 8,
    /// The descriptor was closed or replaced by a sibling thread before the hook could look at it.
    FdGone = 9,
    /// Accepted sockets without a cookie.
    NoCookie = 10,
    /// Accepts of families that this version does not record, such as `AF_ALG`.
    OtherFamily = 11,
    /// Connections of the agent that could not be remembered as its own.
    OwnFull = 12,
    /// Failures without a listening socket (`EBADF`, `ENOTSOCK`): nothing to file a record under.
    FailureNoListener = 13,
    /// Both descriptors were closed or replaced before the hook could look: nothing is known but that it was.
    SocketsGone = 14,
    /// Events that are no accepts: related calls, closed listeners, abandoned connections, connections with a trace that ended.
    Other = 15,
    /// Left out by `filter.*`.
    Filtered = 16,
    /// Completions of io_uring without a request that may have been an accept, and that nothing proved to be one.
    Unproven = 17,
    /// Failures that are in no count of their own, because there were too many kinds of them.
    FailureUntold = 18,
    /// Calls whose begin could not be remembered: their blocked time is absent.
    BlockedFull = 19,
    /// Accepts whose end the kernel did not show, because somebody attached a program to the same function or detached one,
    /// and of which nothing was kept.
    Unended = 20,
    /// Connections that have a trace, and whose end will not be seen because it could not be remembered.
    OpenFull = 21,
    /// Accepted connections that are not counted as open, nor later how long they were.
    LivesFull = 22,
    /// Connections of this host's processes to each other that could not be remembered: nobody is told of who connected.
    PeersFull = 23,
}

impl Counter {
    /// Number of counters: the size of the map.
    pub const COUNT: u32 = 24;

    /// The terms that add up to [`Counter::Seen`] and [`Counter::Other`].
    pub const PARTS_OF_SEEN: [Self; 11] = [
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
        Self::Unended,
    ];
}
