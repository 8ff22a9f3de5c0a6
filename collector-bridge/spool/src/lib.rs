//! A queue of frames on disk that survives a crash of its writer. A frame is appended before it is first
//! used, and released when it is no longer needed.
//!
//! A spool is a folder with segment files of frames, a manifest and a lock file. The manifest has the number
//! of records of each sealed segment, and the cursor: the place before which every frame is released. A start
//! therefore only reads the manifest, the first bytes of each segment, and the one segment that was not
//! sealed. The frames of sealed segments are verified when they are read.
//!
//! Frames are read in order, and may be released in any order: the cursor is before the first frame that is
//! not released. Every record of a frame is read, or counted in [`Losses`] with the reason. After a crash a
//! frame may be read again. A frame that was not written is never read.
//!
//! No call is asynchronous. [`Spool::append`] writes to the page cache. [`SyncJob::run`] may take long, and
//! needs no access to the spool while it runs.
//!
//! Why this is not a crate of others: the append-only queues that we found acknowledge only in order, or have
//! no bound in bytes that drops the oldest frames, or read everything at the start.
//!
//! # Example
//! ```
//! use std::time::Duration;
//!
//! use acceptd_spool::{Frame, Order, Spool, SpoolConfig, SyncPolicy};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let config = SpoolConfig {
//!     folder: folder.path().to_owned(),
//!     max_bytes: 1 << 20,
//!     max_age: Duration::from_secs(3600),
//!     sync: SyncPolicy::Interval,
//!     order: Order::OldestFirst,
//! };
//! let now_ms = 1_700_000_000_000;
//!
//! // The first run appends two frames, and ends without having read them.
//! let (mut spool, recovery) = Spool::open(config.clone())?;
//! assert_eq!(recovery.records, 0);
//! let first = Frame { kind: 1, records: 10, body: "first".into() };
//! let second = Frame { kind: 1, records: 5, body: "second".into() };
//! spool.append(&first, now_ms)?;
//! spool.append(&second, now_ms)?;
//! spool.close()?;
//!
//! // The next run reads them, and releases each once it is delivered.
//! let (mut spool, recovery) = Spool::open(config)?;
//! assert_eq!(recovery.records, 15);
//! let (ticket, frame) = spool.next(now_ms)?.ok_or("no frame")?;
//! assert_eq!(frame, first);
//! spool.release(ticket);
//! let (ticket, frame) = spool.next(now_ms)?.ok_or("no frame")?;
//! assert_eq!(frame, second);
//! spool.release(ticket);
//! assert_eq!(spool.next(now_ms)?, None);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod config;
mod error;
mod frame;
mod manifest;
mod recovery;
mod segment;
mod spool;
mod sync;

pub use crate::{
    config::{Order, SpoolConfig, SyncPolicy},
    error::SpoolError,
    frame::{Frame, MAX_BODY_BYTES},
    recovery::Recovery,
    segment::read_segment,
    spool::{Losses, Spool, Ticket},
    sync::SyncJob,
};
