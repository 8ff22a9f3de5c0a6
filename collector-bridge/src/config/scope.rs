//! Keys of `export.*` for one signal only (`export.metrics.endpoint`), or for one more destination
//! (`destinations.archive.file`): the same keys, the same kinds, on another copy of the configuration.

use std::fmt;

use acceptd_otlp::Signal;

use super::{layer, schema::KEYS, table::Key};

/// Whose keys they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Of one signal to the destination that `export.*` describes.
    Signal(Signal),
    /// Of another destination, by its name.
    Destination(String),
}

/// The group of the keys that a scope can have.
const EXPORT: &str = "export.";

/// The group of the other destinations.
const DESTINATIONS: &str = "destinations";

/// The name that a destination cannot have: it is that of `export.*`.
const DEFAULT: &str = crate::pipeline::destination::DEFAULT;

const SIGNALS: [(&str, Signal); 3] =
    [("logs", Signal::Logs), ("metrics", Signal::Metrics), ("traces", Signal::Traces)];

impl fmt::Display for Scope {
    /// As the keys begin.
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

/// A key called `name`, with its scope if it has one.
pub(super) fn locate(name: &str) -> Option<(Option<Scope>, &'static Key)> {
    if let Some(key) = layer::find(name) {
        return Some((None, key));
    }
    let (scope, rest) = split(name)?;
    Some((Some(scope), layer::find(&format!("{EXPORT}{rest}"))?))
}

/// Whether keys begin with `name` and a point.
pub(super) fn is_group(name: &str) -> bool {
    let has_keys = |group: &str| KEYS.iter().any(|key| key.name.starts_with(group));
    if has_keys(&format!("{name}.")) || name == DESTINATIONS {
        return true;
    }
    // As though a key followed.
    split(&format!("{name}.")).is_some_and(|(_, rest)| has_keys(&format!("{EXPORT}{rest}")))
}

fn split(name: &str) -> Option<(Scope, &str)> {
    let (first, rest) = name.split_once('.')?;
    let (second, rest) = rest.split_once('.')?;
    let scope = match first {
        DESTINATIONS if is_name(second) => Scope::Destination(second.to_owned()),
        "export" => Scope::Signal(SIGNALS.iter().find(|(name, _)| *name == second)?.1),
        _ => return None,
    };
    Some((scope, rest))
}

/// It names a folder of the spool, too.
fn is_name(text: &str) -> bool {
    let fits = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '_' | '-');
    !text.is_empty() && text.len() <= 32 && text != DEFAULT && text.chars().all(fits)
}

/// Every key of a signal's scope with its environment variable.
pub(super) fn variables() -> impl Iterator<Item = (String, Scope, &'static Key)> {
    let of = |signal: Signal| {
        KEYS.iter().filter(|key| key.name.starts_with(EXPORT)).map(move |key| {
            let scope = Scope::Signal(signal);
            let variable = super::table::variable(&scope.name_of(key));
            (variable, scope, key)
        })
    };
    SIGNALS.into_iter().flat_map(move |(_, signal)| of(signal))
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
        for nothing in [
            "export.metrics",
            "export.metrics.nothing",
            "export.profiles.endpoint",
            "destinations.default.endpoint",
            "destinations.Big.endpoint",
            "destinations..endpoint",
            "destinations.a/b.endpoint",
            "destinations.a.ring_bytes",
            "batch.logs.timeout",
        ] {
            assert_eq!(located(nothing), None, "{nothing}");
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
