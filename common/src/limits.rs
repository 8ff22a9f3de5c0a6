//! Sizes that the eBPF programs and the agent must agree on.

/// Bytes of a task's command name, including NUL (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_LEN: usize = 16;

/// Bytes kept of an executable's basename. Longer names are cut here; the agent completes them from `/proc`
/// while the process lives.
pub const EXE_LEN: usize = 64;

/// Bytes kept of the variable that names a process's service, with the variable's own name and the final NUL.
/// A longer one is read from `/proc`.
pub const SERVICE_VARIABLE_LEN: usize = 128;

/// Bytes of a UNIX socket's name (`UNIX_PATH_MAX`, include/uapi/linux/un.h).
pub const UNIX_NAME_LEN: usize = 108;

/// Connections over all listeners that may be established and not yet accepted. Beyond that, tier 2 cannot
/// prove an accept: it counts [`crate::Counter::PendingFull`] and sends `acceptd.accept.verified=false`.
pub const PENDING_CONNECTIONS: u32 = 65_536;

/// Traced connections that may be open at one time, of those whose state is not in the storage of their
/// sockets.
pub const TRACED_CONNECTIONS: u32 = 65_536;

/// Counted connections that may be open at one time, of those whose state is not in the storage of their
/// sockets.
pub const OPEN_CONNECTIONS: u32 = 262_144;

/// Listeners whose connections are counted.
pub const COUNTED_LISTENERS: u32 = 4_096;

/// Listeners whose refused connection attempts are counted.
pub const REFUSING_LISTENERS: u32 = 4_096;

/// Tier 2: pairs of a process and the UNIX socket that refused its connects, between two reads of the agent.
pub const UNIX_TARGETS: u32 = 1_024;

/// Connections within this host that may wait to be accepted at one time and have their client known.
pub const CLIENTS: u32 = 65_536;

/// Connections that the agent itself may have open at one time and still recognise as its own.
pub const OWN_CONNECTIONS: u32 = 1_024;

/// Listeners whose budget is remembered. The least recently used one is evicted, and starts again with a full
/// budget: the budget bounds the volume; it does not count.
pub const BUDGETED_LISTENERS: u32 = 1_024;

/// Triples of listener, process and errno whose failures are counted separately. Failures beyond that are
/// counted in [`crate::Counter::FailureUncounted`].
pub const FAILURE_KEYS: u32 = 2_048;

/// Threads that may at one time close the connection of their own failed accept.
pub const LOST_CONNECTIONS: u32 = 1_024;

/// Threads that may be in accept at one time and have their blocked time measured.
pub const BLOCKED_THREADS: u32 = 16_384;

/// Values of one filter key, except for peers.
pub const FILTER_VALUES: u32 = 64;

/// Networks in `filter.peers`, and as many in `filter.exclude.peers`.
pub const FILTER_PEERS: u32 = 1_024;

/// Levels of the cgroup hierarchy at which a filter can name a cgroup, the root included.
pub const FILTER_CGROUP_LEVELS: u32 = 32;
