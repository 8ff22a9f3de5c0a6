//! What one source sets: entries that are not yet checked against their kinds.

use std::fmt;

use super::{
    Problem,
    origin::Origin,
    raw::Raw,
    schema::KEYS,
    scope::{Scope, locate},
    suggest,
    table::Key,
};

/// One value for one key.
#[derive(Clone)]
pub(super) struct Entry {
    /// Whose key it is, if it is not everybody's.
    pub(super) scope: Option<Scope>,
    pub(super) key: &'static Key,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// The key called `name`.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl fmt::Debug for Entry {
    /// Without the value, which may be a secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.name(), self.origin)
    }
}

impl Entry {
    /// The key as it was written.
    pub(super) fn name(&self) -> String {
        self.scope.as_ref().map_or_else(|| self.key.name.to_owned(), |scope| scope.name_of(self.key))
    }
}

/// The problem of a key that does not exist.
pub(super) fn unknown_key(origin: Origin, name: String) -> Problem {
    let hint = suggest::hint(&name, KEYS.iter().map(|key| key.name));
    Problem::Unknown { origin, what: "key", name, hint }
}

/// Reads the command line's `overrides`.
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
