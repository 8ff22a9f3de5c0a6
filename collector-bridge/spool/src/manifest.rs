//! The manifest: the state of a spool, kept in a small file so that a start need not read the segments. The
//! file is replaced as a whole. Its first line is JSON, its second line the CRC32C of the first.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "manifest.json";
const NEW_FILE_NAME: &str = "manifest.json.new";
/// Version of the file format. A manifest of any other version is not read.
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// Every frame before the cursor was released, dropped, or counted as lost.
    pub(crate) cursor: Cursor,
    /// The number of records of each sealed segment, by segment number.
    pub(crate) sealed: BTreeMap<u64, u64>,
    /// The segment that was being written, and a lower bound of its records.
    pub(crate) open: Option<OpenSegment>,
}

/// The place before which every frame is released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// The number of records of that segment before the offset.
    pub(crate) records: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenSegment {
    pub(crate) segment: u64,
    pub(crate) records: u64,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { version: VERSION, cursor: Cursor::default(), sealed: BTreeMap::new(), open: None }
    }
}

impl Manifest {
    /// Reads the manifest of `folder`, and returns it with its length in bytes. `None` if there is no
    /// manifest.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or has another version.
    pub(crate) fn read(folder: &Path) -> io::Result<Option<(Self, u64)>> {
        let text = match fs::read(folder.join(FILE_NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its checksum does not match");
        let (json, sum) = text.split_at(text.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?);
        if sum != checksum(json) {
            return Err(damaged());
        }
        let manifest: Self = serde_json::from_slice(json).map_err(io::Error::other)?;
        if manifest.version == VERSION {
            Ok(Some((manifest, text.len() as u64)))
        } else {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("it has the unknown version {}", manifest.version),
            ))
        }
    }

    /// Replaces the manifest of `folder` atomically: after a crash of the process there is the old one or the
    /// new one. With `is_durable` this also holds after a power failure.
    ///
    /// # Errors
    /// A write to the file system failed.
    pub(crate) fn write(&self, folder: &Path, is_durable: bool) -> io::Result<()> {
        let mut text = serde_json::to_vec(self).map_err(io::Error::other)?;
        text.extend(checksum(&text));
        let new = folder.join(NEW_FILE_NAME);
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        if is_durable {
            file.sync_all()?;
        }
        fs::rename(new, folder.join(FILE_NAME))?;
        if is_durable { File::open(folder)?.sync_all() } else { Ok(()) }
    }
}

/// The second line of the file, with the line break that ends the first.
fn checksum(json: &[u8]) -> Vec<u8> {
    format!("\n{:08x}\n", crc32c::crc32c(json)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_back_and_an_invalid_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        let manifest = Manifest {
            cursor: Cursor { segment: 3, offset: 99, records: 2 },
            sealed: BTreeMap::from([(3, 7)]),
            open: Some(OpenSegment { segment: 4, records: 1 }),
            ..Manifest::default()
        };
        manifest.write(folder.path(), true).unwrap();
        let (read, length) = Manifest::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, manifest);
        assert_eq!(length, fs::metadata(folder.path().join(FILE_NAME)).unwrap().len());
        let newer = r#"{"version":2,"cursor":{"segment":0,"offset":0,"records":0},"sealed":{},"open":null}"#;
        for json in ["", "{", "[]", newer] {
            let text = [json.as_bytes(), &checksum(json.as_bytes())].concat();
            fs::write(folder.path().join(FILE_NAME), text).unwrap();
            assert!(Manifest::read(folder.path()).is_err(), "{json}");
        }
        manifest.write(folder.path(), true).unwrap();
        let mut text = fs::read(folder.path().join(FILE_NAME)).unwrap();
        let digit = text.iter().position(u8::is_ascii_digit).unwrap();
        text[digit] ^= 1;
        fs::write(folder.path().join(FILE_NAME), text).unwrap();
        assert!(Manifest::read(folder.path()).is_err(), "a flipped bit");
    }
}
