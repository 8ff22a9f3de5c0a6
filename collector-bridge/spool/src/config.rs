//! The configuration of a spool.

use std::{path::PathBuf, time::Duration};

/// The configuration of one spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// The folder. It is created with mode 0700 if it does not exist.
    pub folder: PathBuf,
    /// Upper bound of the bytes of all segments. Beyond it the oldest segment is dropped.
    pub max_bytes: u64,
    /// Frames that are older are dropped instead of read.
    pub max_age: Duration,
    /// When frames are synced to the disk.
    pub sync: SyncPolicy,
    /// Which frame is read next.
    pub order: Order,
}

/// When frames are synced to the disk. Frames that are not synced are lost by a power failure or a kernel
/// crash, but not by a crash of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before [`crate::Spool::append`] returns.
    Always,
    /// When a [`crate::SyncJob`] runs.
    Interval,
    /// When the kernel writes back its page cache.
    Never,
}

/// Which frame is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The oldest one.
    OldestFirst,
    /// Alternately the oldest one and one that was appended recently. After a crash more frames are read
    /// again than with [`Order::OldestFirst`].
    Interleaved,
}
