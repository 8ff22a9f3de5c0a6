//! Reads acceptd's own environment variables: `ACCEPTD_A_B` sets the key `a.b`.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use super::{
    error::Problem, layer::Entry, origin::Origin, raw::Raw, schema::KEYS, scope::variables, suggest,
    table::Key,
};

/// The environment. It is sorted, so that messages have the same order on every run.
pub(super) type Environment = BTreeMap<OsString, OsString>;

const PREFIX: &str = "ACCEPTD_";

/// Finds the keys that `env` sets. An empty variable counts as unset.
pub(super) fn parse(env: &Environment) -> (Vec<Entry>, Vec<Problem>) {
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for (name, value) in env {
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) || value.is_empty() || is_service_link(&name, value) {
            continue;
        }
        let origin = Origin::Env(name.to_string());
        let own = KEYS.iter().find(|key| key.variable() == name).map(|key| (None, key));
        let scoped =
            || variables().find(|(variable, ..)| *variable == name).map(|(_, scope, key)| (Some(scope), key));
        let Some((scope, key)) = own.or_else(scoped) else {
            problems.push(unknown_variable(origin, name.into_owned()));
            continue;
        };
        match value.to_str() {
            Some(value) => entries.push(Entry { scope, key, raw: Raw::Word(value.to_owned()), origin }),
            None => {
                problems.push(Problem::Value {
                    origin,
                    key: key.name.to_owned(),
                    cause: NOT_TEXT.to_owned(),
                });
            }
        }
    }
    (entries, problems)
}

/// The cause for a value that is not UTF-8.
pub(super) const NOT_TEXT: &str = "the value is not UTF-8; set it to text";

fn unknown_variable(origin: Origin, name: String) -> Problem {
    let variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let hint = suggest::hint(&name, variables.iter().map(String::as_str));
    Problem::Unknown { origin, what: "variable", name, hint }
}

/// Whether Kubernetes set the variable. For a Service called `acceptd…` the kubelet sets variables with our
/// prefix in every pod of the namespace, such as `ACCEPTD_SERVICE_HOST` and
/// `ACCEPTD_PORT=tcp://10.0.0.1:4317`. They are not meant as configuration, and are no mistake of the user.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_ADDR", "_PROTO", "_PORT"];
    let address =
        |value: &str| ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let linked = name.contains("_SERVICE_PORT_")
        || name.contains("_PORT_") && ends.iter().any(|end| name.ends_with(end))
        || name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT");
    linked || name.contains("_PORT") && value.to_str().is_some_and(address)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_keys_have_one_variable() {
        let own = KEYS.iter().map(Key::variable);
        let all: Vec<String> = own.chain(variables().map(|(variable, ..)| variable)).collect();
        let different: BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        for variable in ["ACCEPTD_EXPORT_BACKOFF_INITIAL", "ACCEPTD_EXPORT_METRICS_TLS_CA_FILE"] {
            assert!(all.iter().any(|known| known == variable), "{variable}");
        }
    }

    #[test]
    fn no_key_is_taken_for_a_service_link() {
        for key in KEYS {
            assert!(!is_service_link(&key.variable(), OsStr::new("1")), "{}", key.name);
        }
    }

    #[test]
    fn variables_of_kubernetes_are_no_mistake() {
        let env = [
            ("ACCEPTD_SERVICE_HOST", "10.0.0.1"),
            ("ACCEPTD_SERVICE_PORT", "9464"),
            ("ACCEPTD_SERVICE_PORT_ADMIN", "9464"),
            ("ACCEPTD_PORT", "tcp://10.0.0.1:9464"),
            ("ACCEPTD_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
            ("ACCEPTD_PORT_9464_TCP_PROTO", "tcp"),
            ("ACCEPTD_PORT_9464_TCP_PORT", "9464"),
            ("ACCEPTD_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ];
        let env = env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let (entries, problems) = parse(&env);
        assert!(entries.is_empty() && problems.is_empty(), "{problems:?}");
    }
}
