//! Frames that survive whoever writes them: appended before they are first used, and forgotten when they are done with.
//!
//! A folder has segments of frames, a manifest that knows how many records each sealed segment has and up to
//! where everything is done with, and a lock. So a start reads the manifest, the first bytes of each segment, and the one
//! segment that was not sealed; the frames of sealed ones are checked when they are handed out.
//!
//! Frames are handed out in order and may be done with in another one: the cursor stands before the first that is not. Every
//! record of a frame is handed out, or counted in [`Losses`] with its reason. After a crash a frame may be handed out again,
//! never one that was not written.
//!
//! Nothing here is asynchronous. [`Spool::append`] writes to the page cache; what takes longer, [`SyncJob::run`], needs no access
//! to the spool while it runs.
//!
//! Why not a crate: the append-only queues that could be found acknowledge in order only, or have no bound in bytes that drops
//! the oldest, or read everything at the start.
#![forbid(unsafe_code)]

mod frame;
mod manifest;
mod recovery;
mod segment;
mod spool;
mod sync;

use std::{io, path::PathBuf, time::Duration};

use thiserror::Error;

pub use crate::{
    frame::{Frame, LONGEST},
    recovery::Recovery,
    segment::frames_of,
    spool::{Losses, Spool, Ticket},
    sync::SyncJob,
};

/// How to keep frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Where. Made if it does not exist, for its owner alone.
    pub folder: PathBuf,
    /// Most bytes of all segments: beyond that the oldest is dropped.
    pub max_bytes: u64,
    /// Older frames are dropped instead of handed out.
    pub max_age: Duration,
    /// When frames are written through to the disk.
    pub sync: SyncPolicy,
    /// Which frame is next.
    pub order: Order,
}

/// When frames are written through to the disk. Only a machine that loses its power loses what is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before [`Spool::append`] returns.
    Always,
    /// By a [`SyncJob`].
    Interval,
    /// When the kernel likes.
    Never,
}

/// Which frame is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The oldest.
    OldestFirst,
    /// In turns the oldest and the one that was just appended. After a crash more of them are handed out again.
    Interleaved,
}

/// A folder that cannot be used.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// Another process has it.
    #[error("{} is used by another process: each needs a folder of its own", .0.display())]
    Locked(PathBuf),
    /// Anything else.
    #[error("{} cannot be used as a spool: {cause}; it has to be a folder that can be written to", .path.display())]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}
