//! Sizes that the kernel side and the agent must agree on.

/// Bytes of a task's command name, NUL included (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_LEN: usize = 16;

/// Bytes kept of an executable's basename. Longer names are cut here; the agent completes them from
/// `/proc` while the process lives.
pub const EXE_LEN: usize = 64;

/// Connections that may be established and not yet accepted, over all listeners, before tier 2 stops
/// proving them (it then counts [`crate::Counter::PendingFull`] and sends `acceptd.accept.verified=false`).
pub const PENDING_CONNECTIONS: u32 = 65_536;

/// Connections that the agent itself may have open at one time and still be recognised as its own.
pub const OWN_CONNECTIONS: u32 = 1_024;

/// Failed accepts sent as records, for each CPU and second. The others are counted
/// ([`crate::Counter::FailureOverBudget`]): a server out of descriptors fails in a tight loop.
pub const FAILURES_PER_CPU_SECOND: u64 = 10;
