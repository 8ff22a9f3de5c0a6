//! OTLP JSON lines in a file, one request a line: what the Collector's otlpjsonfile receiver reads.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Accepted, Refused, TransportError};
use crate::{batch::Batch, print, retry::Verdict};

/// The end of one file.
#[derive(Debug, Clone)]
pub(crate) struct Appender {
    file: Arc<Mutex<File>>,
    path: Arc<PathBuf>,
}

impl Appender {
    pub(super) fn open(path: &Path) -> Result<Self, TransportError> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(|cause| TransportError::File { path: path.display().to_string(), cause })?;
        Ok(Self { file: Arc::new(Mutex::new(file)), path: Arc::new(path.to_owned()) })
    }

    /// The whole line in one write. A line of which only a part was written (a full disk) is ended before the next one, so that it
    /// spoils no other.
    pub(super) async fn append(&self, batch: &Batch) -> Result<Accepted, Refused> {
        let line = print::otlp_json_line(batch)
            .map_err(|error| Refused::for_good(format!("the request cannot be written as JSON: {error}")))?;
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let length = file.metadata()?.len();
            file.write_all(&line).inspect_err(|_| _ = file.set_len(length))
        });
        match written.await {
            Ok(Ok(())) => Ok(Accepted::default()),
            Ok(Err(error)) => {
                Err(Refused { verdict: Verdict::Retry, reason: format!("{}: {error}", self.path.display()) })
            }
            Err(error) => Err(Refused { verdict: Verdict::Retry, reason: error.to_string() }),
        }
    }
}
