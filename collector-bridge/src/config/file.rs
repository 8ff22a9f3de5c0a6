//! The configuration file: TOML, with the line of every key.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Problem,
    layer::{Entry, unknown_key},
    origin::Origin,
    raw::Raw,
    scope::{is_group, locate},
};

/// The file that is read when none is named, if it exists.
pub const DEFAULT_PATH: &str = "/etc/acceptd/acceptd.toml";

/// A configuration file that was read, and not yet understood.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads the file called `explicit`, which must exist, or else the one at `default`, which need not.
pub(super) fn read(explicit: Option<&Path>, default: &Path) -> Result<Option<Source>, Problem> {
    let path = explicit.unwrap_or(default).to_owned();
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Source { path, text })),
        Err(error) if explicit.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Problem::Unreadable { path, cause }),
    }
}

/// Finds the keys of `source`.
pub(super) fn parse(source: &Source) -> (Vec<Entry>, Vec<Problem>) {
    let mut found = Found { source, entries: Vec::new(), problems: Vec::new() };
    match DeTable::parse(&source.text) {
        Ok(table) => found.walk("", table.get_ref()),
        Err(error) => found.problems.push(Problem::Syntax {
            path: source.path.clone(),
            line: found.line(error.span().map_or(0, |span| span.start)),
            // Only the message: the error's Display repeats the line, which may hold a secret.
            cause: error.message().replace('\n', ", "),
        }),
    }
    (found.entries, found.problems)
}

struct Found<'a> {
    source: &'a Source,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn walk(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (segment, value) in table {
            let name = format!("{prefix}{}", segment.get_ref());
            let origin =
                Origin::File { path: self.source.path.clone(), line: self.line(segment.span().start) };
            self.key(name, origin, value);
        }
    }

    fn key(&mut self, name: String, origin: Origin, value: &Spanned<DeValue<'_>>) {
        let is_group = is_group(&name);
        match (locate(&name), value.get_ref()) {
            (Some((scope, key)), value) => {
                self.entries.push(Entry { scope, key, raw: Raw::from_toml(value), origin });
            }
            (None, DeValue::Table(table)) if is_group => self.walk(&format!("{name}."), table),
            (None, _) if is_group => self.problems.push(Problem::Group { origin, name }),
            (None, _) => self.problems.push(unknown_key(origin, name)),
        }
    }

    /// The line, from 1, of the byte at `offset`.
    fn line(&self, offset: usize) -> usize {
        1 + self.source.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}
