//! What one source sets: entries that are not yet checked against their kinds.

use super::Problem;
use super::origin::Origin;
use super::raw::Raw;
use super::schema::KEYS;
use super::suggest;
use super::table::Key;

/// One value for one key.
pub(super) struct Entry {
    pub(super) key: &'static Key,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// The key called `name`.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
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
        match find(key) {
            Some(key) => entries.push(Entry { key, raw: Raw::Word(value.clone()), origin }),
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
