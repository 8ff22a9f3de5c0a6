//! The configuration as text: the annotated default file, and every value with its origin.

use std::{collections::BTreeMap, fmt::Write};

use super::{Config, Loaded, Origin, Scope, schema::KEYS, table::Key};

const HEADER: &str = "\
# Configuration of acceptd. Every key is here, commented out, with its default.
# A value here is overridden by OTEL_* variables, these by ACCEPTD_* variables (key a.b is ACCEPTD_A_B), and these
# by flags (--set a.b=value). An empty text means \"not set\".
";

const FOOTER: &str = "
# Every key of [export] can also be set for one signal: [export.logs], [export.metrics], [export.traces]. With
# http/protobuf an endpoint of a signal is the whole URL, to which nothing is added.
#     [export.metrics]
#     endpoint = \"none\"

# More destinations for all records, each with its own queue, and its own folder in spool.directory. They have the keys of
# [export] with their defaults.
#     [destinations.archive]
#     file = \"/var/log/acceptd/accepts.jsonl\"
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
    text + FOOTER
}

/// Adds a line. Writing to a `String` cannot fail.
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
    /// Every key with its value and origin, in the order of the default file; then what is set for one signal or one destination
    /// only.
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
