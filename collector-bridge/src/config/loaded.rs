//! A configuration that was loaded: its values, the origin of each, and its views for one signal or one
//! destination.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use acceptd_otlp::Signal;

use super::{
    choice::Protocol,
    endpoint::Endpoint,
    layer::Entry,
    origin::Origin,
    schema::{Config, find_key},
    scope::Scope,
};

/// A configuration together with the origin of its values.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Warnings about ignored values, one line each. Print them; they do not prevent a start.
    pub warnings: Vec<String>,
    /// Attributes of the agent's own Resource, from `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`. They
    /// do not apply to the processes that the agent observes.
    pub agent_resource: BTreeMap<String, String>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// The origin of each value that is not a default, by key.
    pub(super) origins: BTreeMap<String, Origin>,
    /// Values that are set for one signal or one destination only, lowest layer first.
    pub(super) scoped: Vec<Entry>,
}

/// The configuration as it applies to one signal or one destination.
#[derive(Debug, Clone)]
pub struct View {
    /// The values.
    pub config: Config,
    /// Whether the endpoint was set for this signal alone. With OTLP/HTTP such an endpoint is the whole URL,
    /// and no path is added to it.
    pub has_own_endpoint: bool,
}

/// The signals that the agent sends.
const SIGNALS: [Signal; 3] = [Signal::Logs, Signal::Metrics, Signal::Traces];

/// The keys that decide where requests go.
const TARGETS: [&str; 2] = ["export.endpoint", "export.file"];

/// The default port of OTLP/HTTP.
pub(super) const HTTP_PORT: u16 = 4318;

impl Loaded {
    /// Where the value of `key` comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// The names of the additional destinations; the one that `export.*` describes is not among them.
    pub fn destinations(&self) -> BTreeSet<&str> {
        let scopes = self.scoped.iter().filter_map(|entry| entry.scope.as_ref());
        let names = scopes.filter_map(|scope| match scope {
            Scope::Destination(name) => Some(name.as_str()),
            Scope::Signal(_) => None,
        });
        names.collect()
    }

    /// Every scope that has a view of its own: each signal, and each additional destination.
    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        let destinations = self.destinations().into_iter().map(|name| Scope::Destination(name.to_owned()));
        SIGNALS.map(Scope::Signal).into_iter().chain(destinations)
    }

    /// The configuration as it applies to `scope`.
    pub fn view(&self, scope: &Scope) -> View {
        let mut config = self.config.clone();
        if matches!(scope, Scope::Destination(_)) {
            // An additional destination inherits nothing from `export.*`: headers, above all, must not reach
            // another server.
            let defaults = Config::default();
            (config.export, config.export_tls) = (defaults.export, defaults.export_tls);
        }
        let is_signal = matches!(scope, Scope::Signal(_));
        let entries: Vec<&Entry> = self
            .scoped
            .iter()
            .filter(|entry| entry.scope.as_ref() == Some(scope))
            // A global value from a layer of higher precedence overrides a value for one signal.
            .filter(|entry| !is_signal || entry.origin.layer() >= self.layer(entry.key.name))
            .collect();
        if entries.iter().any(|entry| TARGETS.contains(&entry.key.name)) {
            (config.export.endpoint, config.export.file) = (None, None);
        }
        for Entry { key, raw, .. } in &entries {
            // Cannot fail: `resolve` keeps only entries that it could read.
            _ = (key.set)(&mut config, raw);
        }
        let own_endpoint = entries.iter().rfind(|entry| entry.key.name == "export.endpoint");
        let origin =
            own_endpoint.map_or_else(|| self.origin("export.endpoint"), |entry| entry.origin.clone());
        let is_fallback = matches!(origin, Origin::Fallback(_));
        if let (Some(endpoint), Protocol::Http, true) =
            (&mut config.export.endpoint, config.export.protocol, is_fallback)
        {
            // The specification's default endpoint depends on the protocol.
            endpoint.set_port(HTTP_PORT);
        }
        let has_own_endpoint = is_signal && own_endpoint.is_some() && !is_fallback;
        if let Some(authorization) = config.export.endpoint.as_ref().and_then(Endpoint::authorization) {
            config.export.headers.insert_missing("authorization", authorization);
        }
        View { config, has_own_endpoint }
    }

    /// The layer that set `key` for all signals. The two keys of [`TARGETS`] replace each other, so either of
    /// them has the higher layer of both.
    fn layer(&self, key: &str) -> u8 {
        let layer = |key: &str| self.origin(key).layer();
        if TARGETS.contains(&key) {
            TARGETS.map(layer).into_iter().max().unwrap_or_default()
        } else {
            layer(key)
        }
    }

    /// The key that gives `scope` its value, and the value's origin: the key of the scope if it is set, else
    /// the global one.
    pub(super) fn effective_key(&self, scope: &Scope, key: &'static str) -> (String, Origin) {
        let own = find_key(key).map(|key| scope.name_of(key)).unwrap_or_default();
        match self.origins.get(&own) {
            Some(origin) => (own, origin.clone()),
            None => (key.to_owned(), self.origin(key)),
        }
    }

    /// The first key that was set for `scope`.
    pub(super) fn first_key(&self, scope: &Scope) -> (String, Origin) {
        let first = self.scoped.iter().find(|entry| entry.scope.as_ref() == Some(scope));
        first.map_or_else(
            || (scope.to_string(), Origin::Default),
            |entry| (entry.name(), entry.origin.clone()),
        )
    }
}
