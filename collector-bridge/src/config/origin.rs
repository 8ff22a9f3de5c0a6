//! Where a value comes from.

use std::fmt;
use std::path::PathBuf;

/// The source of one value. Its `Display` is what `config show` and every message print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// An environment variable, by name.
    Env(String),
    /// A command-line flag as it was typed, such as `--endpoint` or `--set`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}
