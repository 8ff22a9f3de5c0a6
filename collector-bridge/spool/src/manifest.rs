//! What a spool knows of its segments without reading them: a small file that is replaced as a whole. Its first line is JSON, its
//! second the CRC32C of the first.

use std::{
    collections::BTreeMap,
    fs::{
        File, OpenOptions, {self},
    },
    io::{
        Write as _, {self},
    },
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

const NAME: &str = "manifest.json";
const NEW: &str = "manifest.json.new";
/// Of the file; a newer one is not read.
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// Everything before it was acknowledged, dropped, or counted as lost.
    pub(crate) cursor: Cursor,
    /// Records of each sealed segment, by its number.
    pub(crate) sealed: BTreeMap<u64, u64>,
    /// The segment that was being written: it has at least so many records.
    pub(crate) open: Option<Open>,
}

/// Up to where a spool is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// Records of that segment before the offset.
    pub(crate) records: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) segment: u64,
    pub(crate) records: u64,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { version: VERSION, cursor: Cursor::default(), sealed: BTreeMap::new(), open: None }
    }
}

impl Manifest {
    /// Reads the manifest of `folder`, and says of how many bytes it is; `None` where there is none.
    ///
    /// # Errors
    /// One that cannot be read, or understood.
    pub(crate) fn read(folder: &Path) -> io::Result<Option<(Self, u64)>> {
        let text = match fs::read(folder.join(NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is not what was written");
        let (json, sum) = text.split_at(text.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?);
        if sum != checksum(json) {
            return Err(damaged());
        }
        let manifest: Self = serde_json::from_slice(json).map_err(io::Error::other)?;
        if manifest.version == VERSION {
            Ok(Some((manifest, text.len() as u64)))
        } else {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("it is of version {}", manifest.version)))
        }
    }

    /// Replaces it: after a crash there is the old one or the new one. `is_durable`: also after a loss of power.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write(&self, folder: &Path, is_durable: bool) -> io::Result<()> {
        let mut text = serde_json::to_vec(self).map_err(io::Error::other)?;
        text.extend(checksum(&text));
        let new = folder.join(NEW);
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        if is_durable {
            file.sync_all()?;
        }
        fs::rename(new, folder.join(NAME))?;
        if is_durable { File::open(folder)?.sync_all() } else { Ok(()) }
    }
}

/// The second line, with the end of the first.
fn checksum(json: &[u8]) -> Vec<u8> {
    format!("\n{:08x}\n", crc32c::crc32c(json)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        let manifest = Manifest {
            cursor: Cursor { segment: 3, offset: 99, records: 2 },
            sealed: BTreeMap::from([(3, 7)]),
            open: Some(Open { segment: 4, records: 1 }),
            ..Manifest::default()
        };
        manifest.write(folder.path(), true).unwrap();
        let (read, length) = Manifest::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, manifest);
        assert_eq!(length, fs::metadata(folder.path().join(NAME)).unwrap().len());
        let newer = r#"{"version":2,"cursor":{"segment":0,"offset":0,"records":0},"sealed":{},"open":null}"#;
        for json in ["", "{", "[]", newer] {
            let text = [json.as_bytes(), &checksum(json.as_bytes())].concat();
            fs::write(folder.path().join(NAME), text).unwrap();
            assert!(Manifest::read(folder.path()).is_err(), "{json}");
        }
        manifest.write(folder.path(), true).unwrap();
        let mut text = fs::read(folder.path().join(NAME)).unwrap();
        let digit = text.iter().position(u8::is_ascii_digit).unwrap();
        text[digit] ^= 1;
        fs::write(folder.path().join(NAME), text).unwrap();
        assert!(Manifest::read(folder.path()).is_err(), "a flipped bit");
    }
}
