//! A file of frames: a head of its own, then one frame behind the other.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::frame::{Frame, HEAD, Head, WORD};

/// The first eight bytes, the last of which is the version of what follows. A newer one is left untouched.
const MAGIC: [u8; 8] = *b"ACPTSPL\x01";

/// Where the first frame is.
pub(crate) const BEGIN: u64 = 8;

/// Bytes that are looked through at a time for the next frame behind a broken one.
const CHUNK: usize = 64 << 10;

/// The path of segment `number`.
pub(crate) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.segment"))
}

/// The number in a segment's name.
pub(crate) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A segment that is appended to.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    pub(crate) number: u64,
    /// Where the next frame goes.
    pub(crate) end: u64,
    pub(crate) records: u64,
}

impl Writer {
    /// A new, empty segment.
    pub(crate) fn create(folder: &Path, number: u64) -> io::Result<Self> {
        let path = path(folder, number);
        let mut options = OpenOptions::new();
        let file = options.create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        if let Err(error) = file.write_all_at(&MAGIC, 0) {
            // A full disk: an empty file would be in the way of the next try.
            _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(Self { file, number, end: BEGIN, records: 0 })
    }

    /// Appends a frame, and has it `written_through` if so asked; says where it begins. Of one that fails nothing stays.
    pub(crate) fn append(&mut self, frame: &Frame, now_ms: u64, written_through: bool) -> io::Result<u64> {
        let head = Head::of(frame, self.records, now_ms)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a frame of more than 64 MiB"))?;
        let (at, body_at) = (self.end, self.end + HEAD as u64);
        // The head last: whoever dies in between leaves no frame rather than half of one.
        let written = self
            .file
            .write_all_at(&frame.body, body_at)
            .and_then(|()| self.file.write_all_at(&head.encode(), at))
            .and_then(|()| if written_through { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Should not even this work, the next frame is written over it.
            _ = self.file.set_len(at);
            return Err(error);
        }
        self.end = body_at + frame.body.len() as u64;
        self.records += u64::from(frame.records);
        Ok(at)
    }

    /// The file, to read it or to have it written through.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// What stands at a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Frame {
        head: Head,
        next: u64,
        frame: Frame,
    },
    /// Bytes that are no frame, or one that is not what was written, up to `next`.
    Broken {
        next: u64,
    },
    /// No further frame.
    End,
}

/// A segment that is read.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    pub(crate) number: u64,
    /// Bytes that were read: what a recovery costs.
    pub(crate) bytes_read: u64,
}

impl Reader {
    /// Opens a segment.
    ///
    /// # Errors
    /// The file system's; one that is no segment, or of a newer version ([`io::ErrorKind::Unsupported`]).
    pub(crate) fn open(path: &Path, number: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 0)?;
        if magic == MAGIC {
            return Ok(Self { file, number, bytes_read: BEGIN });
        }
        let ([word @ .., known], [found @ .., version]) = (MAGIC, magic);
        Err(if found == word {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("it is of version {version}, and this acceptd reads version {known}"),
            )
        } else {
            io::Error::new(io::ErrorKind::InvalidData, "it does not begin as a segment does")
        })
    }

    /// The segment that is still appended to; works even if somebody removed the file.
    pub(crate) fn of(writer: &Writer) -> io::Result<Self> {
        Ok(Self { file: writer.file()?, number: writer.number, bytes_read: 0 })
    }

    pub(crate) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// What stands at `at`, before `end`.
    pub(crate) fn read(&mut self, at: u64, end: u64) -> io::Result<Found> {
        let mut bytes = [0; HEAD];
        let body_at = at.saturating_add(HEAD as u64);
        if body_at > end {
            return Ok(Found::End);
        }
        self.read_at(&mut bytes, at)?;
        let Some(head) = Head::decode(&bytes) else { return self.find_next(at + 1, end) };
        let next = body_at + head.length as u64;
        if next > end {
            return self.find_next(at + 1, end);
        }
        let mut body = vec![0; head.length];
        self.read_at(&mut body, body_at)?;
        if !head.is_of(&body) {
            return Ok(Found::Broken { next });
        }
        let frame = Frame { kind: head.kind, records: head.records, body: body.into() };
        Ok(Found::Frame { head, next, frame })
    }

    fn read_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.bytes_read += bytes.len() as u64;
        self.file.read_exact_at(bytes, at)
    }

    /// The first place from `from` on where a frame may begin.
    fn find_next(&mut self, mut from: u64, end: u64) -> io::Result<Found> {
        let mut chunk = vec![0; CHUNK];
        while from < end {
            let length = usize::try_from(end - from).unwrap_or(CHUNK).min(CHUNK);
            self.read_at(&mut chunk[..length], from)?;
            if let Some(place) = chunk[..length].windows(WORD.len()).position(|bytes| bytes == WORD) {
                return Ok(Found::Broken { next: from + place as u64 });
            }
            // The word may lie across two chunks.
            from += length.saturating_sub(WORD.len() - 1).max(1) as u64;
        }
        Ok(Found::End)
    }
}

/// The frames of one segment, wherever it lies; an error for each place that is damaged.
///
/// # Errors
/// A file that cannot be read ([`io::Error`]'s kinds), is no segment ([`io::ErrorKind::InvalidData`]), or of a newer version
/// ([`io::ErrorKind::Unsupported`]).
pub fn frames_of(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Frame>> + use<>> {
    let mut reader = Reader::open(path, 0)?;
    let end = reader.length()?;
    let mut at = BEGIN;
    Ok(std::iter::from_fn(move || {
        let (next, found) = match reader.read(at, end) {
            Ok(Found::Frame { next, frame, .. }) => (next, Ok(frame)),
            Ok(Found::Broken { next }) => (
                next,
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("bytes {at} to {next} are damaged"))),
            ),
            Ok(Found::End) => return None,
            Err(error) => (end, Err(error)),
        };
        at = next;
        Some(found)
    }))
}
