//! Writing through to the disk, which may take long: nobody need wait for it.

use std::{collections::BTreeMap, fs::File, io, path::PathBuf};

use crate::manifest::Manifest;

/// What has to be on the disk, as it was when the job was made.
#[derive(Debug)]
#[must_use]
pub struct SyncJob {
    pub(crate) folder: PathBuf,
    /// Segments that grew, by number.
    pub(crate) files: BTreeMap<u64, File>,
    /// Only after them: it tells of what is in them.
    pub(crate) manifest: Manifest,
    pub(crate) is_durable: bool,
}

impl SyncJob {
    /// Does it.
    ///
    /// # Errors
    /// The file system's: [`crate::Spool::sync_failed`] wants to know.
    pub fn run(&self) -> io::Result<()> {
        if self.is_durable {
            self.files.values().try_for_each(File::sync_data)?;
        }
        self.manifest.write(&self.folder, self.is_durable)
    }
}
