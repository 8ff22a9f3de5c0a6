//! The entries that each source of configuration yields, not yet checked against the kinds of their keys.
//! Reads also the source that needs no file of its own, the command line.

use std::fmt;

use super::{
    error::Problem,
    origin::Origin,
    raw::Raw,
    schema::KEYS,
    scope::{Scope, locate},
    suggest,
    table::Key,
};

/// A value that a source has for one key.
#[derive(Clone)]
pub(super) struct Entry {
    /// The signal or destination that the value is for; `None` if it is global.
    pub(super) scope: Option<Scope>,
    pub(super) key: &'static Key,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

impl fmt::Debug for Entry {
    /// Omits the value, which may be a secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.name(), self.origin)
    }
}

impl Entry {
    /// The full name of the key, as the user wrote it.
    pub(super) fn name(&self) -> String {
        self.scope.as_ref().map_or_else(|| self.key.name.to_owned(), |scope| scope.name_of(self.key))
    }
}

/// The problem of a key that does not exist.
pub(super) fn unknown_key(origin: Origin, name: String) -> Problem {
    let hint = suggest::hint(&name, KEYS.iter().map(|key| key.name));
    Problem::Unknown { origin, what: "key", name, hint }
}

/// Finds the keys that the command line's `flags` set.
pub(super) fn from_flags(flags: &[Flag]) -> (Vec<Entry>, Vec<Problem>) {
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for Flag { name, key, value } in flags {
        let origin = Origin::Flag((*name).to_owned());
        match locate(key) {
            Some((scope, key)) => entries.push(Entry { scope, key, raw: Raw::Word(value.clone()), origin }),
            None => problems.push(unknown_key(origin, key.clone())),
        }
    }
    (entries, problems)
}

/// A key set on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag as it was typed, such as `--endpoint` or `--set`.
    pub name: &'static str,
    /// The key that it sets.
    pub key: String,
    /// The value, as text.
    pub value: String,
}
