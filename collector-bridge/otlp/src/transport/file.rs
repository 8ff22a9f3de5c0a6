//! The client of a file target: appends each request as one line of OTLP JSON,
//! <https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/>.
//!
//! The file is opened by its path for each request, so that logrotate(8) can rename it without a signal to
//! acceptd.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Semaphore;

use super::{
    answer::{Accepted, Refused},
    target::TransportError,
};
use crate::{
    batch::Batch,
    print::{PrintFormat, Printer},
    retry::Disposition,
};

/// Only the owner may read the records: they show who connected to which process.
const MODE: u32 = 0o600;

/// Appends requests to one file, one at a time.
#[derive(Debug, Clone)]
pub(crate) struct FileClient {
    path: PathBuf,
    /// The one permit to write. A write that hangs keeps it even after its attempt timed out, so that at most
    /// one blocking thread hangs, however many attempts follow.
    write_permit: Arc<Semaphore>,
}

impl FileClient {
    pub(super) fn new(path: &Path) -> Result<Self, TransportError> {
        let unusable = |cause| TransportError::File { path: path.display().to_string(), cause };
        open(path).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), write_permit: Arc::new(Semaphore::new(1)) })
    }

    pub(super) async fn send(&self, batch: &Batch) -> Result<Accepted, Refused> {
        // Does not fail: the semaphore is never closed.
        let permit = Arc::clone(&self.write_permit).acquire_owned().await;
        let (path, batch) = (self.path.clone(), batch.clone());
        let written = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            write(&path, &batch)
        });
        written.await.unwrap_or_else(|error| Err(write_failed(&error.into())))
    }
}

fn write(path: &Path, batch: &Batch) -> Result<Accepted, Refused> {
    let mut line = Vec::new();
    Printer::new(PrintFormat::OtlpJson, false)
        .print_batch(&mut line, batch)
        .map_err(|error| Refused::permanent(format!("the request cannot be written as JSON: {error}")))?;
    append(path, &line).map_err(|error| write_failed(&error))?;
    Ok(Accepted::default())
}

fn write_failed(error: &io::Error) -> Refused {
    let reason = format!("{error}; make room on the disk, or make the file writable");
    Refused { disposition: Disposition::Retry, reason }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)
}

/// Appends the whole line. After an error the file is as it was before.
fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = open(path)?;
    // The agent's own metrics may go to the same file, through another exporter.
    file.lock()?;
    let before = file.metadata()?.len();
    if !ends_with_newline(&file, before)? {
        // A writer ended in the middle of a line. End that line, so that only it is unreadable.
        file.write_all(b"\n")?;
    }
    file.write_all(line).inspect_err(|_| {
        // If the truncation fails too, half a line remains, and the next request ends it.
        _ = file.set_len(before);
    })
}

fn ends_with_newline(file: &File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}
