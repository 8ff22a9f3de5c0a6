//! Syncing to the disk, which may take long: a job that runs without access to the spool.

use std::{collections::BTreeMap, fs::File, io, path::PathBuf};

use crate::manifest::Manifest;

/// The changes of a spool that are not on the disk yet, as of the time when the job was made.
#[derive(Debug)]
#[must_use]
pub struct SyncJob {
    pub(crate) folder: PathBuf,
    /// The segments that grew, by number.
    pub(crate) files: BTreeMap<u64, File>,
    /// Written after the segments were synced, because it refers to their frames.
    pub(crate) manifest: Manifest,
    pub(crate) is_durable: bool,
}

impl SyncJob {
    /// Syncs the segments, and writes the manifest.
    ///
    /// # Errors
    /// A write or sync failed. Pass the job to [`crate::Spool::sync_failed`] then, so that the next job
    /// repeats it.
    pub fn run(&self) -> io::Result<()> {
        if self.is_durable {
            self.files.values().try_for_each(File::sync_data)?;
        }
        self.manifest.write(&self.folder, self.is_durable)
    }
}
