//! The configuration as text: the annotated default file, and every value with its origin.

use std::fmt::Write;

use super::schema::KEYS;
use super::table::Key;
use super::{Config, Loaded, Origin};

const HEADER: &str = "\
# Configuration of acceptd. Every key is here, commented out, with its default.
# A value here is overridden by OTEL_* variables, these by ACCEPTD_* variables (key a.b is ACCEPTD_A_B), and these
# by flags (--set a.b=value). An empty text means \"not set\".
";

/// The annotated default file: TOML in which every key is commented out. With the `#` before the keys removed
/// it still says the defaults.
pub fn default_file() -> String {
    let defaults = Config::default();
    let mut text = HEADER.to_owned();
    let mut group = "";
    for key in KEYS {
        let (key_group, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if key_group == group {
            text.push('\n');
        } else {
            group = key_group;
            push(&mut text, format_args!("\n[{group}]"));
        }
        for line in key.doc {
            push(&mut text, format_args!("#{line}"));
        }
        push(&mut text, format_args!("# Expects {}.", (key.expects)()));
        push(&mut text, format_args!("#{name} = {}", (key.get)(&defaults)));
    }
    text
}

/// Adds a line. Writing to a `String` cannot fail.
fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    _ = writeln!(text, "{line}");
}

/// One key as `config show` prints it.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The key.
    pub name: &'static str,
    /// Its value as TOML, secrets as `***`.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

impl Loaded {
    /// Every key with its value and origin, in the order of the default file.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        KEYS.iter().map(|key: &Key| Setting {
            name: key.name,
            value: (key.get)(&self.config).to_string(),
            origin: self.origin(key.name),
        })
    }
}
