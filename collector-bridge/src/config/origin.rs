//! Where a value comes from.

use std::{fmt, path::PathBuf};

/// The source of one value. Its `Display` is what `config show` and every message print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// No layer set it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// An environment variable that asks for the specification's default value without naming one, such as
    /// `OTEL_LOGS_EXPORTER=otlp`.
    Fallback(String),
    /// An environment variable, by name.
    Env(String),
    /// A command-line flag as it was typed, such as `--endpoint` or `--set`.
    Flag(String),
}

impl Origin {
    /// The precedence of the origin's layer: a greater number overrides a smaller one.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Self::Default | Self::Fallback(_) => 0,
            Self::File { .. } => 1,
            Self::Env(name) if name.starts_with("OTEL_") => 2,
            Self::Env(_) => 3,
            Self::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Fallback(name) | Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}
