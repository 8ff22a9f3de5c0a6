//! Sizes that the kernel side and the agent must agree on.

/// Bytes of a task's command name, NUL included (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_LEN: usize = 16;

/// Bytes kept of an executable's basename. Longer names are cut here; the agent completes them from
/// `/proc` while the process lives.
pub const EXE_LEN: usize = 64;

/// Bytes of a UNIX socket's name (`UNIX_PATH_MAX`, include/uapi/linux/un.h).
pub const UNIX_NAME_LEN: usize = 108;

/// Connections that may be established and not yet accepted, over all listeners, before tier 2 stops
/// proving them (it then counts [`crate::Counter::PendingFull`] and sends `acceptd.accept.verified=false`).
pub const PENDING_CONNECTIONS: u32 = 65_536;

/// Connections with a trace that may be open at one time where the sockets themselves cannot keep them.
pub const OPEN_CONNECTIONS: u32 = 65_536;

/// Connections that may be open at one time and be counted, where the sockets themselves cannot keep it.
pub const LIVING_CONNECTIONS: u32 = 262_144;

/// Listeners whose connections are counted.
pub const COUNTED_LISTENERS: u32 = 4_096;

/// Connections of this host's processes to each other that may wait to be accepted at one time and have their client known.
pub const PEERS: u32 = 65_536;

/// Connections that the agent itself may have open at one time and still be recognised as its own.
pub const OWN_CONNECTIONS: u32 = 1_024;

/// Listeners whose budget of failure records is remembered. The least recently used is forgotten, and has a new
/// budget: the budget is a bound on volume, not a count.
pub const BUDGETED_LISTENERS: u32 = 1_024;

/// Triples of listener, process and errno whose failures are counted apart. Further ones are counted in
/// [`crate::Counter::FailureUntold`].
pub const FAILURE_COUNTS: u32 = 2_048;

/// Threads that may be in accept at one time and have their blocked time measured.
pub const BLOCKED_THREADS: u32 = 16_384;

/// Values of one filter key.
pub const FILTER_VALUES: u32 = 64;
