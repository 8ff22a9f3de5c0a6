//! OTLP JSON lines in a file, <https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/>: one request a line.
//!
//! The file is opened by its path for each request, so that logrotate(8) needs to tell nobody that it moved it.

use std::{
    fs::{File, OpenOptions},
    io::{
        Write as _, {self},
    },
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Semaphore;

use super::{Accepted, Refused, TransportError};
use crate::{Batch, Output, Printer, retry::Verdict};

/// Who accepted what from whom is nobody else's business.
const MODE: u32 = 0o600;

/// A file that grows by one request at a time.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    path: PathBuf,
    /// One write at a time, however long the disk takes: an attempt that is given up leaves it behind.
    place: Arc<Semaphore>,
}

impl Client {
    pub(super) fn new(path: &Path) -> Result<Self, TransportError> {
        let unusable = |cause| TransportError::File { path: path.display().to_string(), cause };
        open(path).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), place: Arc::new(Semaphore::new(1)) })
    }

    pub(super) async fn send(&self, batch: &Batch) -> Result<Accepted, Refused> {
        // The semaphore is never closed.
        let place = Arc::clone(&self.place).acquire_owned().await;
        let (path, batch) = (self.path.clone(), batch.clone());
        let written = tokio::task::spawn_blocking(move || {
            let _place = place;
            write(&path, &batch)
        });
        written.await.unwrap_or_else(|error| Err(unwritten(&error.into())))
    }
}

fn write(path: &Path, batch: &Batch) -> Result<Accepted, Refused> {
    let mut line = Vec::new();
    Printer::new(Output::OtlpJson, false)
        .print_batch(&mut line, batch)
        .map_err(|error| Refused::for_good(format!("the request cannot be written as JSON: {error}")))?;
    append(path, &line).map_err(|error| unwritten(&error))?;
    Ok(Accepted::default())
}

fn unwritten(error: &io::Error) -> Refused {
    let reason = format!("{error}; make room on the disk, or make the file writable");
    Refused { verdict: Verdict::Retry, reason }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)
}

/// Appends a whole line, or nothing.
fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = open(path)?;
    // Others may write there, too: the agent's own metrics.
    file.lock()?;
    let before = file.metadata()?.len();
    if !ends_with_a_line(&file, before)? {
        // Somebody died while writing: what they left stays a line of its own.
        file.write_all(b"\n")?;
    }
    file.write_all(line).inspect_err(|_| {
        // A second failure leaves half a line, which the next request ends.
        _ = file.set_len(before);
    })
}

fn ends_with_a_line(file: &File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}
