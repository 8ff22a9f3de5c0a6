//! Scoped keys: `export.*` for one signal only (`export.metrics.endpoint`), or for an additional destination
//! (`destinations.archive.file`). They are the same keys with the same kinds, applied to a copy of the
//! configuration.

use std::fmt;

use acceptd_otlp::Signal;

use super::{
    schema::{KEYS, find_key},
    table::{self, Key},
};

/// The signal or destination that a key is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One signal, sent to the destination that `export.*` describes.
    Signal(Signal),
    /// An additional destination, by its name.
    Destination(String),
}

/// The prefix of the keys that can be scoped.
const EXPORT: &str = "export.";

/// The group of the additional destinations.
const DESTINATIONS: &str = "destinations";

/// The name of the destination that `export.*` describes, and of its folder within `spool.directory`. An
/// additional destination cannot have this name.
pub(crate) const DEFAULT_DESTINATION: &str = "default";

const SIGNALS: [(&str, Signal); 3] =
    [("logs", Signal::Logs), ("metrics", Signal::Metrics), ("traces", Signal::Traces)];

impl fmt::Display for Scope {
    /// The prefix of the scope's keys, with a dot at its end.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(out, "{EXPORT}{signal}."),
            Self::Destination(name) => write!(out, "{DESTINATIONS}.{name}."),
        }
    }
}

impl Scope {
    /// The name of a key in this scope.
    pub(super) fn name_of(&self, key: &Key) -> String {
        format!("{self}{}", key.name.strip_prefix(EXPORT).unwrap_or(key.name))
    }
}

/// The key called `name`, with its scope if it has one.
pub(super) fn locate(name: &str) -> Option<(Option<Scope>, &'static Key)> {
    if let Some(key) = find_key(name) {
        return Some((None, key));
    }
    let (scope, rest) = split(name)?;
    Some((Some(scope), find_key(&format!("{EXPORT}{rest}"))?))
}

/// Whether `name` is a group: there are keys that begin with `name` and a dot.
pub(super) fn is_group(name: &str) -> bool {
    let has_keys = |group: &str| KEYS.iter().any(|key| key.name.starts_with(group));
    if has_keys(&format!("{name}.")) || name == DESTINATIONS {
        return true;
    }
    // `split` expects a key behind the group, so an empty one is appended.
    split(&format!("{name}.")).is_some_and(|(_, rest)| has_keys(&format!("{EXPORT}{rest}")))
}

fn split(name: &str) -> Option<(Scope, &str)> {
    let (first, rest) = name.split_once('.')?;
    let (second, rest) = rest.split_once('.')?;
    let scope = match first {
        DESTINATIONS if is_destination_name(second) => Scope::Destination(second.to_owned()),
        "export" => Scope::Signal(SIGNALS.iter().find(|(name, _)| *name == second)?.1),
        _ => return None,
    };
    Some((scope, rest))
}

/// Whether a destination can have this name, which is also the name of its folder in the spool.
fn is_destination_name(text: &str) -> bool {
    let fits = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '_' | '-');
    !text.is_empty() && text.len() <= 32 && text != DEFAULT_DESTINATION && text.chars().all(fits)
}

/// The environment variable, scope and key of every key that is set for one signal.
pub(super) fn variables() -> impl Iterator<Item = (String, Scope, &'static Key)> {
    let keys_for = |signal: Signal| {
        KEYS.iter().filter(|key| key.name.starts_with(EXPORT)).map(move |key| {
            let scope = Scope::Signal(signal);
            let variable = table::variable(&scope.name_of(key));
            (variable, scope, key)
        })
    };
    SIGNALS.into_iter().flat_map(move |(_, signal)| keys_for(signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(name: &str) -> Option<(Option<Scope>, &'static str)> {
        locate(name).map(|(scope, key)| (scope, key.name))
    }

    #[test]
    fn scopes_have_the_keys_of_export() {
        let metrics = Some(Scope::Signal(Signal::Metrics));
        assert_eq!(located("export.metrics.tls.ca_file"), Some((metrics, "export.tls.ca_file")));
        let archive = Some(Scope::Destination("archive-2".to_owned()));
        assert_eq!(located("destinations.archive-2.endpoint"), Some((archive, "export.endpoint")));
        assert_eq!(located("export.endpoint"), Some((None, "export.endpoint")));
        for unknown in [
            "export.metrics",
            "export.metrics.unknown",
            "export.profiles.endpoint",
            "destinations.default.endpoint",
            "destinations.Big.endpoint",
            "destinations..endpoint",
            "destinations.a/b.endpoint",
            "destinations.a.ring_bytes",
            "batch.logs.timeout",
        ] {
            assert_eq!(located(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn groups_lead_to_keys() {
        for group in
            ["export", "export.tls", "export.logs", "export.logs.tls", "destinations", "destinations.a.tls"]
        {
            assert!(is_group(group), "{group}");
        }
        for none in ["export.endpoint", "destinations.default", "exports", "export.logs.batch"] {
            assert!(!is_group(none), "{none}");
        }
    }

    #[test]
    fn names_are_written_as_they_are_read() {
        for (_, scope, key) in variables() {
            assert_eq!(located(&scope.name_of(key)), Some((Some(scope), key.name)));
        }
    }
}
