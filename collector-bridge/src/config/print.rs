//! The configuration as text: the documented default file, and every value with its origin.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    loaded::Loaded,
    origin::Origin,
    schema::{Config, KEYS},
    scope::Scope,
    table::Key,
};

const HEADER: &str = "\
# Configuration of acceptd: every key, commented out, with its default.
# OTEL_* variables override values in this file, ACCEPTD_* variables (ACCEPTD_A_B for the key a.b) override those, and
# flags (--set a.b=value) override all. An empty text means \"not set\".
";

const FOOTER: &str = "
# Every key of [export] can also be set for one signal: [export.logs], [export.metrics], [export.traces]. With
# http/protobuf, the endpoint of a signal is the whole URL: no path is added to it.
#     [export.metrics]
#     endpoint = \"none\"

# Additional destinations of all records, each with a queue of its own, and a folder of its own in spool.directory. They
# have the keys of [export], and start from the defaults.
#     [destinations.archive]
#     file = \"/var/log/acceptd/accepts.jsonl\"
";

/// The documented default file: TOML in which every key is commented out. Without the `#` in front of the
/// keys it still sets every key to its default.
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
    text + FOOTER
}

/// Appends a line. Writing to a `String` cannot fail.
fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    _ = writeln!(text, "{line}");
}

/// One key as `config show` prints it.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The key.
    pub name: String,
    /// Its value as TOML, secrets as `***`.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

impl Loaded {
    /// Every key with its value and origin, in the order of the default file; then the keys that are set for
    /// one signal or one destination only.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        let setting = |key: &Key, name: String, config: &Config| Setting {
            value: (key.get)(config).to_string(),
            origin: self.origin(&name),
            name,
        };
        let all = KEYS.iter().map(move |key| setting(key, key.name.to_owned(), &self.config));
        let scoped: BTreeMap<String, (&Scope, &Key)> = self
            .scoped
            .iter()
            .filter_map(|entry| Some((entry.name(), (entry.scope.as_ref()?, entry.key))))
            .collect();
        all.chain(
            scoped.into_iter().map(move |(name, (scope, key))| setting(key, name, &self.view(scope).config)),
        )
    }
}
