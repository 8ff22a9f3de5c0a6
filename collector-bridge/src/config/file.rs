//! Reads the configuration file: TOML, with the line of every key.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::Problem,
    layer::{Entry, unknown_key},
    origin::Origin,
    raw::Raw,
    scope::{is_group, locate},
};

/// The file that is read if it exists and no other file was named.
pub const DEFAULT_PATH: &str = "/etc/acceptd/acceptd.toml";

/// A configuration file that was read but not yet parsed.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads the file called `explicit`, which must exist, or else the one at `default`, which need not.
pub(super) fn read(explicit: Option<&Path>, default: &Path) -> Result<Option<ConfigFile>, Problem> {
    let path = explicit.unwrap_or(default).to_owned();
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(ConfigFile { path, text })),
        Err(error) if explicit.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Problem::Unreadable { path, cause }),
    }
}

/// Finds the keys that `file` sets.
pub(super) fn parse(file: &ConfigFile) -> (Vec<Entry>, Vec<Problem>) {
    let mut parser = Parser { file, entries: Vec::new(), problems: Vec::new() };
    match DeTable::parse(&file.text) {
        Ok(table) => parser.add_table("", table.get_ref()),
        Err(error) => parser.problems.push(Problem::Syntax {
            path: file.path.clone(),
            line: parser.line(error.span().map_or(0, |span| span.start)),
            // The message alone: the error's Display repeats the line, which may hold a secret.
            cause: error.message().replace('\n', ", "),
        }),
    }
    (parser.entries, parser.problems)
}

struct Parser<'a> {
    file: &'a ConfigFile,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
}

impl Parser<'_> {
    /// Adds the keys of `table`, whose names begin with `prefix`.
    fn add_table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (segment, value) in table {
            let name = format!("{prefix}{}", segment.get_ref());
            let origin = Origin::File { path: self.file.path.clone(), line: self.line(segment.span().start) };
            self.add(name, origin, value);
        }
    }

    fn add(&mut self, name: String, origin: Origin, value: &Spanned<DeValue<'_>>) {
        let is_group = is_group(&name);
        match (locate(&name), value.get_ref()) {
            (Some((scope, key)), value) => {
                self.entries.push(Entry { scope, key, raw: Raw::from_toml(value), origin });
            }
            (None, DeValue::Table(table)) if is_group => self.add_table(&format!("{name}."), table),
            (None, _) if is_group => self.problems.push(Problem::Group { origin, name }),
            (None, _) => self.problems.push(unknown_key(origin, name)),
        }
    }

    /// The line, from 1, of the byte at `offset`.
    fn line(&self, offset: usize) -> usize {
        1 + self.file.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}
