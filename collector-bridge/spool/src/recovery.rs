//! The start of a spool: locks the folder, and finds the frames of an earlier run with as little reading as
//! possible.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::{
    error::SpoolError,
    manifest::Manifest,
    segment::{self, FIRST_FRAME_OFFSET, FrameRead, Reader},
};

/// The findings of the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that were not released yet. Frames of sealed segments are not verified here, so some of
    /// these records may turn out to be corrupt.
    pub records: u64,
    /// Bytes that were read to find them.
    pub bytes_read: u64,
    /// Bytes after the last whole frame of segments that were not sealed.
    pub torn_bytes: u64,
    /// Messages about files that could not be used, with the consequence.
    pub warnings: Vec<String>,
}

/// A folder after the recovery.
pub(crate) struct RecoveredFolder {
    pub(crate) manifest: Manifest,
    /// The offset at which the frames of each segment end. All segments are sealed now.
    pub(crate) lengths: BTreeMap<u64, u64>,
    /// The number of the next segment: no file has this number or a higher one.
    pub(crate) free_number: u64,
    pub(crate) recovery: Recovery,
    pub(crate) lock: File,
}

/// Creates the folder if necessary, locks it, and finds the frames in it.
pub(crate) fn recover(folder: &Path) -> Result<RecoveredFolder, SpoolError> {
    let unusable = |cause| SpoolError::Unusable { path: folder.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
    let lock = lock(folder)?;
    let mut recovery = Recovery::default();
    let found = segments(folder).map_err(unusable)?;
    let mut manifest = match Manifest::read(folder) {
        Ok(None) => Manifest::default(),
        Ok(Some((manifest, bytes))) => {
            recovery.bytes_read += bytes;
            manifest
        }
        Err(error) => {
            recovery.warnings.push(format!(
                "cannot read the manifest in {} ({error}): every segment is read and sent again",
                folder.display()
            ));
            Manifest::default()
        }
    };
    manifest.sealed.retain(|number, _| found.contains_key(number));
    // Also higher than the cursor, whose segment may be deleted already.
    let last = found.keys().next_back().copied().unwrap_or(0).max(manifest.cursor.segment);
    let free_number = last.saturating_add(1);
    let mut lengths = BTreeMap::new();
    for (number, length) in found {
        match recover_segment(folder, number, length, &mut manifest, &mut recovery) {
            Ok(end) => _ = lengths.insert(number, end),
            Err(error) => {
                manifest.sealed.remove(&number);
                let path = segment::path(folder, number);
                recovery.warnings.push(format!("{} is skipped and kept: {error}", path.display()));
            }
        }
    }
    manifest.open = None;
    let released =
        if manifest.sealed.contains_key(&manifest.cursor.segment) { manifest.cursor.records } else { 0 };
    let all: u64 = manifest.sealed.range(manifest.cursor.segment..).map(|(_, records)| records).sum();
    recovery.records = all.saturating_sub(released);
    Ok(RecoveredFolder { manifest, lengths, free_number, recovery, lock })
}

/// Reads the header of a segment, and the whole segment if it was not sealed. Returns the offset at which its
/// frames end.
fn recover_segment(
    folder: &Path,
    number: u64,
    length: u64,
    manifest: &mut Manifest,
    recovery: &mut Recovery,
) -> io::Result<u64> {
    let mut reader = Reader::open(&segment::path(folder, number), number)?;
    let mut end = length;
    if !manifest.sealed.contains_key(&number) {
        let (records, found_end) = scan_segment(&mut reader, length)?;
        let known = manifest.open.filter(|open| open.segment == number).map_or(0, |open| open.records);
        manifest.sealed.insert(number, records.max(known));
        recovery.torn_bytes += length - found_end;
        end = found_end;
    }
    recovery.bytes_read += reader.bytes_read;
    Ok(end)
}

/// Scans a segment. Returns the number of its records, and the offset at which its last whole frame ends. The
/// records of damaged frames are included if a whole frame follows, because its header has the number of
/// records before it.
fn scan_segment(reader: &mut Reader, length: u64) -> io::Result<(u64, u64)> {
    let (mut at, mut records, mut end) = (FIRST_FRAME_OFFSET, 0, FIRST_FRAME_OFFSET);
    loop {
        match reader.read(at, length)? {
            FrameRead::Frame { header, next, .. } => {
                records = header.before.saturating_add(u64::from(header.records));
                (at, end) = (next, next);
            }
            FrameRead::Damaged { next } => at = next,
            FrameRead::End => return Ok((records, end)),
        }
    }
}

/// Locks the folder for this process, as long as the returned file is open.
fn lock(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join("lock");
    let unusable = |cause| SpoolError::Unusable { path: path.clone(), cause };
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(SpoolError::Locked(folder.to_owned())),
        Err(fs::TryLockError::Error(cause)) => Err(unusable(cause)),
    }
}

/// The segments of a folder: number and length of each file.
fn segments(folder: &Path) -> io::Result<BTreeMap<u64, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(segment::number) {
            found.insert(number, entry.metadata()?.len());
        }
    }
    Ok(found)
}
