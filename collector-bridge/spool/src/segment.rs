//! Segment files: eight bytes that identify the file, then one frame after the other.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::frame::{Frame, FrameHeader, HEADER_BYTES, MARKER};

/// The first eight bytes of a segment. The last of them is the version of the format; a segment of another
/// version is kept untouched.
const MAGIC: [u8; 8] = *b"ACPTSPL\x01";

/// The offset of the first frame.
pub(crate) const FIRST_FRAME_OFFSET: u64 = 8;

/// Bytes that are searched at a time for the next frame after a damaged one.
const CHUNK: usize = 64 << 10;

/// The path of segment `number`.
pub(crate) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.segment"))
}

/// The number in the file name of a segment; `None` if this is not the name of a segment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The open end of a segment, to which frames are appended.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    pub(crate) number: u64,
    /// The offset of the next frame.
    pub(crate) end: u64,
    pub(crate) records: u64,
}

impl Writer {
    /// Creates a new, empty segment.
    pub(crate) fn create(folder: &Path, number: u64) -> io::Result<Self> {
        let path = path(folder, number);
        let mut options = OpenOptions::new();
        let file = options.create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        if let Err(error) = file.write_all_at(&MAGIC, 0) {
            // The disk is probably full. Remove the empty file, or `create_new` would fail at the next
            // attempt.
            _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(Self { file, number, end: FIRST_FRAME_OFFSET, records: 0 })
    }

    /// Appends a frame, and syncs it to the disk if `is_durable`. Returns the offset of the frame. After an
    /// error the segment is as it was before.
    pub(crate) fn append(&mut self, frame: &Frame, now_ms: u64, is_durable: bool) -> io::Result<u64> {
        let header = FrameHeader::for_frame(frame, self.records, now_ms)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the frame is longer than 64 MiB"))?;
        let (at, body_at) = (self.end, self.end + HEADER_BYTES as u64);
        // The header is written last: if the process ends in between, there is no frame rather than half of
        // one.
        let written = self
            .file
            .write_all_at(&frame.body, body_at)
            .and_then(|()| self.file.write_all_at(&header.encode(), at))
            .and_then(|()| if is_durable { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // If the truncation fails too, the next frame overwrites these bytes.
            _ = self.file.set_len(at);
            return Err(error);
        }
        self.end = body_at + frame.body.len() as u64;
        self.records += u64::from(frame.records);
        Ok(at)
    }

    /// Another handle of the file, for reading or syncing.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// The result of reading at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FrameRead {
    Frame {
        header: FrameHeader,
        next: u64,
        frame: Frame,
    },
    /// The bytes up to `next` are not a frame, or a frame with a wrong checksum.
    Damaged {
        next: u64,
    },
    /// There is no further frame.
    End,
}

/// A segment that is open for reading.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    pub(crate) number: u64,
    /// Bytes that were read so far: the cost of a recovery.
    pub(crate) bytes_read: u64,
}

impl Reader {
    /// Opens a segment.
    ///
    /// # Errors
    /// The file cannot be read, is not a segment ([`io::ErrorKind::InvalidData`]), or has another version
    /// ([`io::ErrorKind::Unsupported`]).
    pub(crate) fn open(path: &Path, number: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 0)?;
        if magic == MAGIC {
            return Ok(Self { file, number, bytes_read: FIRST_FRAME_OFFSET });
        }
        let ([magic_word @ .., known], [found @ .., version]) = (MAGIC, magic);
        Err(if found == magic_word {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("it has version {version}, and this version of acceptd reads version {known}"),
            )
        } else {
            io::Error::new(io::ErrorKind::InvalidData, "it is not a segment of a spool")
        })
    }

    /// Reads the segment of `writer`, through its file handle, so that this works even if the file was
    /// deleted.
    pub(crate) fn from_writer(writer: &Writer) -> io::Result<Self> {
        Ok(Self { file: writer.file()?, number: writer.number, bytes_read: 0 })
    }

    pub(crate) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads the frame at the offset `at` of a segment whose frames end at `end`.
    pub(crate) fn read(&mut self, at: u64, end: u64) -> io::Result<FrameRead> {
        let mut bytes = [0; HEADER_BYTES];
        let body_at = at.saturating_add(HEADER_BYTES as u64);
        if body_at > end {
            return Ok(FrameRead::End);
        }
        self.read_at(&mut bytes, at)?;
        let Some(header) = FrameHeader::decode(&bytes) else { return self.find_next(at + 1, end) };
        let next = body_at + header.length as u64;
        if next > end {
            return self.find_next(at + 1, end);
        }
        let mut body = vec![0; header.length];
        self.read_at(&mut body, body_at)?;
        if !header.matches_body(&body) {
            return Ok(FrameRead::Damaged { next });
        }
        let frame = Frame { kind: header.kind, records: header.records, body: body.into() };
        Ok(FrameRead::Frame { header, next, frame })
    }

    fn read_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.bytes_read += bytes.len() as u64;
        self.file.read_exact_at(bytes, at)
    }

    /// Searches for the marker of the next frame, from the offset `from` on.
    fn find_next(&mut self, mut from: u64, end: u64) -> io::Result<FrameRead> {
        let mut chunk = vec![0; CHUNK];
        while from < end {
            let length = usize::try_from(end - from).unwrap_or(CHUNK).min(CHUNK);
            self.read_at(&mut chunk[..length], from)?;
            if let Some(place) = chunk[..length].windows(MARKER.len()).position(|bytes| bytes == MARKER) {
                return Ok(FrameRead::Damaged { next: from + place as u64 });
            }
            // The marker may span two chunks.
            from += length.saturating_sub(MARKER.len() - 1).max(1) as u64;
        }
        Ok(FrameRead::End)
    }
}

/// Reads all frames of one segment file, without its spool. The iterator has an error for each damaged place,
/// and goes on after it.
///
/// # Errors
/// The file cannot be read, is not a segment ([`io::ErrorKind::InvalidData`]), or has another version
/// ([`io::ErrorKind::Unsupported`]).
pub fn read_segment(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Frame>> + use<>> {
    let mut reader = Reader::open(path, 0)?;
    let end = reader.length()?;
    let mut at = FIRST_FRAME_OFFSET;
    Ok(std::iter::from_fn(move || {
        let (next, found) = match reader.read(at, end) {
            Ok(FrameRead::Frame { next, frame, .. }) => (next, Ok(frame)),
            Ok(FrameRead::Damaged { next }) => (
                next,
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("bytes {at} to {next} are damaged"))),
            ),
            Ok(FrameRead::End) => return None,
            Err(error) => (end, Err(error)),
        };
        at = next;
        Some(found)
    }))
}
