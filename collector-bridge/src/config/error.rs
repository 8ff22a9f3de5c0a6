//! The mistakes that a configuration can have. Every message names the place, the cause and the remedy. No
//! message repeats a secret: the code that reads a value decides which part of the value may be quoted.

use std::{fmt, io, path::PathBuf};

use super::origin::Origin;

/// All problems of one configuration, so that the user can correct them after one run.
///
/// Its `Display` is one line for each [`Problem`].
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// The problems, in the order of their layers. Never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// `Err` with the problems; `Ok` if there are none.
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

/// One problem of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file is missing, may not be read, or is not text.
    #[error("{}: cannot read the configuration file: {cause}; make it a readable UTF-8 file, or name another one with --config", .path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not valid TOML: {cause}; \"acceptd config default\" prints a valid file", .path.display())]
    Syntax {
        /// The file as it was named.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// The TOML parser's message, without the text of the line, which may hold a secret.
        cause: String,
    },
    /// A key, or an `ACCEPTD_*` variable, that does not exist.
    #[error("{origin}: unknown {what} {name:?}{hint} (\"acceptd config default\" lists every key)")]
    Unknown {
        /// Where it is.
        origin: Origin,
        /// `key` or `variable`.
        what: &'static str,
        /// The unknown name.
        name: String,
        /// `; did you mean …?`, or empty.
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
        /// The key that the value is for.
        key: String,
        /// The mistake, and the expected value.
        cause: String,
    },
    /// Two values that are valid by themselves but contradict each other.
    #[error("{key} ({origin}): {cause}")]
    Conflict {
        /// The key to change.
        key: String,
        /// Where its value is from.
        origin: Origin,
        /// The contradiction, and what to change.
        cause: String,
    },
    /// `OTEL_CONFIG_FILE` is set.
    #[error(
        "env OTEL_CONFIG_FILE: acceptd does not read OpenTelemetry's declarative configuration; unset the variable and use a file of acceptd's own with --config (\"acceptd config default\" prints one)"
    )]
    DeclarativeFile,
}
