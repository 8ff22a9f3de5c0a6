//! What an earlier run left, found with as little reading as possible.

use std::{
    collections::BTreeMap,
    fs::{
        DirBuilder, File, OpenOptions, {self},
    },
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::{
    SpoolError,
    manifest::Manifest,
    segment::{
        BEGIN, Found, Reader, {self},
    },
};

/// What was found at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that wait, among them those that will turn out to be corrupt.
    pub records: u64,
    /// Bytes that were read to know that.
    pub bytes_read: u64,
    /// Bytes behind the last whole frame of a segment that was not sealed.
    pub torn_bytes: u64,
    /// What is odd, in words, with what was done about it.
    pub oddities: Vec<String>,
}

/// The folder as it was found.
pub(crate) struct Left {
    pub(crate) manifest: Manifest,
    /// Where the frames of each segment end; all are sealed now.
    pub(crate) lengths: BTreeMap<u64, u64>,
    /// No file has this number or a higher one.
    pub(crate) free_number: u64,
    pub(crate) recovery: Recovery,
    pub(crate) lock: File,
}

/// Takes the folder, and looks at it.
pub(crate) fn recover(folder: &Path) -> Result<Left, SpoolError> {
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
            recovery.oddities.push(format!(
                "the manifest in {} is not understood ({error}): every segment is read and sent again",
                folder.display()
            ));
            Manifest::default()
        }
    };
    manifest.sealed.retain(|number, _| found.contains_key(number));
    // Also behind the cursor, whose segment may be gone already.
    let last = found.keys().next_back().copied().unwrap_or(0).max(manifest.cursor.segment);
    let free_number = last.saturating_add(1);
    let mut lengths = BTreeMap::new();
    for (number, length) in found {
        match look_at(folder, number, length, &mut manifest, &mut recovery) {
            Ok(end) => _ = lengths.insert(number, end),
            Err(error) => {
                manifest.sealed.remove(&number);
                let path = segment::path(folder, number);
                recovery.oddities.push(format!("{} is left alone: {error}", path.display()));
            }
        }
    }
    manifest.open = None;
    let done =
        if manifest.sealed.contains_key(&manifest.cursor.segment) { manifest.cursor.records } else { 0 };
    let all: u64 = manifest.sealed.range(manifest.cursor.segment..).map(|(_, records)| records).sum();
    recovery.records = all.saturating_sub(done);
    Ok(Left { manifest, lengths, free_number, recovery, lock })
}

/// Reads the head of a segment, and all of one that was not sealed; says where its frames end.
fn look_at(
    folder: &Path,
    number: u64,
    length: u64,
    manifest: &mut Manifest,
    recovery: &mut Recovery,
) -> io::Result<u64> {
    let mut reader = Reader::open(&segment::path(folder, number), number)?;
    let mut end = length;
    if !manifest.sealed.contains_key(&number) {
        let (records, found_end) = survey(&mut reader, length)?;
        let known = manifest.open.filter(|open| open.segment == number).map_or(0, |open| open.records);
        manifest.sealed.insert(number, records.max(known));
        recovery.torn_bytes += length - found_end;
        end = found_end;
    }
    recovery.bytes_read += reader.bytes_read;
    Ok(end)
}

/// Records of a segment, broken frames among them if a whole one follows, and where the last whole one ends.
fn survey(reader: &mut Reader, length: u64) -> io::Result<(u64, u64)> {
    let (mut at, mut records, mut end) = (BEGIN, 0, BEGIN);
    loop {
        match reader.read(at, length)? {
            Found::Frame { head, next, .. } => {
                records = head.before.saturating_add(u64::from(head.records));
                (at, end) = (next, next);
            }
            Found::Broken { next } => at = next,
            Found::End => return Ok((records, end)),
        }
    }
}

/// Nobody else may use the folder while the file is open.
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

/// The segments of a folder, each with its length.
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
