//! What can be wrong with a configuration. Every message names the place, the cause and the remedy, and none
//! of them repeats a secret: whoever reads a value decides what of it may be quoted.

use std::{fmt, io, path::PathBuf};

use super::origin::Origin;

/// Everything that is wrong with one configuration, so that one run is enough to correct it all.
///
/// Its `Display` is one line for each [`Problem`].
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// The problems, in the order of the layers they were found in. Never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Wraps `problems`; an empty list is a valid configuration and no error.
    pub(super) fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file is missing, may not be read, or is not text.
    #[error("{}: cannot read the configuration file: {cause}; make it a readable UTF-8 file, or name another one with --config", .path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// Why the system refused it.
        cause: io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not valid TOML: {cause}; \"acceptd config default\" prints a valid file", .path.display())]
    Syntax {
        /// The file as it was named.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// What the TOML parser says, without the text of the line (it may hold a secret).
        cause: String,
    },
    /// A key, or an `ACCEPTD_*` variable, that does not exist.
    #[error("{origin}: unknown {what} {name:?}{hint} (\"acceptd config default\" lists every key)")]
    Unknown {
        /// Where it is.
        origin: Origin,
        /// `key` or `variable`.
        what: &'static str,
        /// The name that nothing answers to.
        name: String,
        /// `; did you mean …?`, or nothing.
        hint: String,
    },
    /// A value where a group of keys belongs.
    #[error("{origin}: {name:?} is a group of keys; write [{name}] and its keys below it")]
    Group {
        /// Where it is.
        origin: Origin,
        /// The group.
        name: String,
    },
    /// A value of the wrong type, form or range.
    #[error("{origin}: {key}: {cause}")]
    Value {
        /// Where it is.
        origin: Origin,
        /// The key it was meant for.
        key: String,
        /// What is wrong and what is expected instead.
        cause: String,
    },
    /// Two values that are good by themselves and not together.
    #[error("{key} ({origin}): {cause}")]
    Conflict {
        /// The key to change.
        key: String,
        /// Where its value is from.
        origin: Origin,
        /// What it contradicts, and what to do.
        cause: String,
    },
    /// `OTEL_CONFIG_FILE` is set.
    #[error(
        "env OTEL_CONFIG_FILE: acceptd does not read OpenTelemetry's declarative configuration; unset the variable and use a file of acceptd's own with --config (\"acceptd config default\" prints one)"
    )]
    DeclarativeFile,
}
