//! Why a spool cannot be opened.

use std::{io, path::PathBuf};

use thiserror::Error;

/// A folder that cannot be used as a spool.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// Another process has locked the folder.
    #[error("{} is used by another process: each process needs a spool folder of its own", .0.display())]
    Locked(PathBuf),
    /// The folder or a file in it cannot be created, read or written.
    #[error("{} cannot be used as a spool: {cause}; it has to be a folder that can be written to", .path.display())]
    Unusable {
        /// The folder or the file.
        path: PathBuf,
        /// The error of the file system.
        cause: io::Error,
    },
}
