//! The configuration: read from five layers, checked, and able to say where each value is from.
//!
//! The layers, each stronger than the one before: default, file, `OTEL_*`, `ACCEPTD_*`, flag. An empty text
//! means "not set" in all of them. A value replaces the one below it whole; lists and tables are not merged.
//!
//! To follow one value: `schema` has its row, `file`, `otel`, `env` and `layer` find it, its `kind` reads it.

mod choice;
mod endpoint;
mod env;
mod error;
mod file;
mod kind;
mod layer;
mod origin;
mod otel;
mod pairs;
mod print;
mod quantity;
mod ratio;
mod raw;
mod reload;
mod schema;
mod scope;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use acceptd_otlp::Signal;
pub use choice::{CaptureTier, LogLevel, OutputFormat, PeerAddress, Profile, Protocol, Sampler, Temporality};
pub use endpoint::Endpoint;
use env::Environment;
pub use error::{ConfigError, Problem};
pub use file::DEFAULT_PATH;
use file::Source;
use layer::Entry;
pub use layer::Flag;
pub use origin::Origin;
pub use pairs::{Headers, resource_attributes};
pub use print::{Setting, default_file};
pub use ratio::Ratio;
pub use reload::Reloaded;
pub use schema::{
    AttributeSelection, Batch, Capture, Config, Events, Export, ExportTls, Filter, FilterExclude, Host,
    Limits, ListenerWatch, Log, Queue, ResourceAdditions, Shutdown, Spool, State, Traces,
};
pub use scope::Scope;
pub use values::{Detail, Family};

/// A configuration with its history.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// What was ignored and why, one line each; to be shown, and no reason to stop.
    pub warnings: Vec<String>,
    /// Attributes of the agent's own Resource, from `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`. They
    /// say nothing about the processes that the agent observes.
    pub agent_resource: BTreeMap<String, String>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Where the values come from that are not defaults, by key.
    origins: BTreeMap<String, Origin>,
    /// What is set for one signal or one destination only, the weakest first.
    scoped: Vec<Entry>,
}

/// The configuration as one signal or one destination has it.
#[derive(Debug, Clone)]
pub struct View {
    /// The values.
    pub config: Config,
    /// Whether the endpoint is the signal's own: with OTLP/HTTP it is the whole URL then.
    pub has_own_endpoint: bool,
}

impl Loaded {
    /// Where the value of `key` comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// The names of the destinations besides that of `export.*`.
    pub fn destinations(&self) -> BTreeSet<&str> {
        let scopes = self.scoped.iter().filter_map(|entry| entry.scope.as_ref());
        let names = scopes.filter_map(|scope| match scope {
            Scope::Destination(name) => Some(name.as_str()),
            Scope::Signal(_) => None,
        });
        names.collect()
    }

    /// The configuration as one signal, or another destination, has it.
    pub fn view(&self, scope: &Scope) -> View {
        let mut config = self.config.clone();
        if matches!(scope, Scope::Destination(_)) {
            // What is for the one, headers above all, is not for the other.
            let defaults = Config::default();
            (config.export, config.export_tls) = (defaults.export, defaults.export_tls);
        }
        let is_signal = matches!(scope, Scope::Signal(_));
        let entries: Vec<&Entry> = self
            .scoped
            .iter()
            .filter(|entry| entry.scope.as_ref() == Some(scope))
            // Who sets it for all signals in a stronger layer means all.
            .filter(|entry| !is_signal || entry.origin.layer() >= self.layer(entry.key.name))
            .collect();
        if entries.iter().any(|entry| TARGETS.contains(&entry.key.name)) {
            (config.export.endpoint, config.export.file) = (None, None);
        }
        for Entry { key, raw, .. } in &entries {
            // It was read once before.
            _ = (key.set)(&mut config, raw);
        }
        let own_endpoint = entries.iter().rfind(|entry| entry.key.name == "export.endpoint");
        let origin =
            own_endpoint.map_or_else(|| self.origin("export.endpoint"), |entry| entry.origin.clone());
        let is_fallback = matches!(origin, Origin::Fallback(_));
        if let (Some(endpoint), Protocol::Http, true) =
            (&mut config.export.endpoint, config.export.protocol, is_fallback)
        {
            // The specification's default of this protocol.
            endpoint.set_port(HTTP_PORT);
        }
        let has_own_endpoint = is_signal && own_endpoint.is_some() && !is_fallback;
        if let Some(authorization) = config.export.endpoint.as_ref().and_then(Endpoint::authorization) {
            config.export.headers.insert_missing("authorization", authorization);
        }
        View { config, has_own_endpoint }
    }
}

/// Loads the configuration from the file called `file` (or else the one at [`DEFAULT_PATH`], if it exists), from
/// the environment `env` and from the command line's `flags`.
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &[Flag],
) -> Result<Loaded, ConfigError> {
    let source = file::read(file, Path::new(DEFAULT_PATH))?;
    resolve(source.as_ref(), &env.into_iter().collect(), flags)
}

/// Decides every value; the file has been read already.
fn resolve(source: Option<&Source>, env: &Environment, flags: &[Flag]) -> Result<Loaded, ConfigError> {
    let (file_entries, mut problems) = source.map(file::parse).unwrap_or_default();
    let standard = otel::parse(env);
    let (env_entries, env_problems) = env::parse(env);
    let (flag_entries, flag_problems) = layer::from_flags(flags);
    problems.extend(env_problems);
    problems.extend(flag_problems);
    if otel::names_declarative_file(env) {
        problems.push(Problem::DeclarativeFile);
    }

    let mut loaded = Loaded {
        config: Config::default(),
        warnings: standard.warnings,
        agent_resource: standard.resource,
        file: source.map(|source| source.path.clone()),
        origins: BTreeMap::new(),
        scoped: Vec::new(),
    };
    loaded.apply_leniently(standard.fallback);
    problems.extend(loaded.apply(file_entries));
    loaded.apply_leniently(standard.entries);
    problems.extend(loaded.apply(env_entries));
    problems.extend(loaded.apply(flag_entries));
    loaded.derive();

    problems.extend(loaded.conflicts());
    ConfigError::unless_empty(problems)?;
    Ok(loaded)
}

impl Loaded {
    /// The layer in which a key is set for all; of where requests go, that of either key.
    fn layer(&self, key: &str) -> u8 {
        let layer = |key: &str| self.origin(key).layer();
        if TARGETS.contains(&key) {
            TARGETS.map(layer).into_iter().max().unwrap_or_default()
        } else {
            layer(key)
        }
    }

    /// Of an endpoint and a file the stronger layer wins: the other one is unset by it.
    fn unset_weaker_target(&mut self, set: &str, origin: &Origin) {
        let other = match set {
            "export.endpoint" => "export.file",
            "export.file" => "export.endpoint",
            _ => return,
        };
        if self.origin(other).layer() < origin.layer() {
            match other {
                "export.file" => self.config.export.file = None,
                _ => self.config.export.endpoint = None,
            }
            self.origins.remove(other);
        }
    }

    /// Sets `entries`; those that cannot be used are returned.
    fn apply(&mut self, entries: Vec<Entry>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for entry in entries {
            if entry.raw.is_unset() {
                continue;
            }
            let set = match entry.scope {
                None => (entry.key.set)(&mut self.config, &entry.raw),
                Some(_) => (entry.key.set)(&mut Config::default(), &entry.raw),
            };
            let (key, origin) = (entry.name(), entry.origin.clone());
            match set {
                Ok(()) => {
                    if entry.scope.is_none() {
                        self.unset_weaker_target(entry.key.name, &origin);
                    }
                    self.origins.insert(key, origin);
                    self.scoped.extend(entry.scope.is_some().then_some(entry));
                }
                Err(cause) => problems.push(Problem::Value { origin, key, cause }),
            }
        }
        problems
    }

    /// Sets `entries`; those that cannot be used become warnings.
    fn apply_leniently(&mut self, entries: Vec<Entry>) {
        let problems = self.apply(entries);
        self.warnings.extend(problems.iter().map(otel::ignored));
    }

    /// What follows from other values.
    fn derive(&mut self) {
        let is_of_records = |scope: &Scope| !matches!(scope, Scope::Signal(Signal::Metrics | Signal::Traces));
        let is_sent = self.scopes().filter(is_of_records).any(|scope| self.view(&scope).config.is_sent());
        if is_sent && self.origin("output") == Origin::Default {
            self.config.output = None;
        }
        let mistaken: Vec<String> = self.scopes().filter_map(|scope| self.mistaken_port(&scope)).collect();
        for warning in mistaken {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    /// Whoever has a configuration of its own: the signals that are sent, and the other destinations.
    fn scopes(&self) -> impl Iterator<Item = Scope> {
        let signals = SIGNALS.map(Scope::Signal);
        signals
            .into_iter()
            .chain(self.destinations().into_iter().map(|name| Scope::Destination(name.to_owned())))
    }

    /// The key as `scope` has it, and where its value is from: its own, or everybody's.
    fn key_of(&self, scope: &Scope, key: &'static str) -> (String, Origin) {
        let own = layer::find(key).map(|key| scope.name_of(key)).unwrap_or_default();
        match self.origins.get(&own) {
            Some(origin) => (own, origin.clone()),
            None => (key.to_owned(), self.origin(key)),
        }
    }

    fn mistaken_port(&self, scope: &Scope) -> Option<String> {
        let Config { export, .. } = self.view(scope).config;
        let port = export.endpoint?.port();
        let (other, ours, usual) = match (export.protocol, port) {
            (Protocol::Grpc, HTTP_PORT) => ("OTLP over HTTP", "gRPC", GRPC_PORT),
            (Protocol::Http, GRPC_PORT) => ("OTLP over gRPC", "HTTP", HTTP_PORT),
            _ => return None,
        };
        let (key, origin) = self.key_of(scope, "export.endpoint");
        Some(format!(
            "{key} ({origin}): port {port} is where Collectors receive {other}, and this speaks {ours}; use port {usual}, or another export.protocol"
        ))
    }

    /// Values that are good by themselves and not together.
    fn conflicts(&self) -> Vec<Problem> {
        let mut found: Vec<(String, Origin, String)> = self
            .config
            .conflicts()
            .into_iter()
            .map(|(key, cause)| (key.to_owned(), self.origin(key), cause))
            .collect();
        for scope in self.scopes() {
            let View { config, .. } = self.view(&scope);
            if matches!(scope, Scope::Destination(_)) && !config.is_sent() {
                let (key, origin) = self.first_of(&scope);
                let cause = format!("nothing is sent there: set {scope}endpoint or {scope}file");
                found.push((key, origin, cause));
            }
            for (key, cause) in config.conflicts_of_export() {
                let (key, origin) = self.key_of(&scope, key);
                if !found.iter().any(|(known, ..)| *known == key) {
                    found.push((key, origin, cause));
                }
            }
        }
        found.into_iter().map(|(key, origin, cause)| Problem::Conflict { key, origin, cause }).collect()
    }

    /// Any key of a scope.
    fn first_of(&self, scope: &Scope) -> (String, Origin) {
        let first = self.scoped.iter().find(|entry| entry.scope.as_ref() == Some(scope));
        first.map_or_else(
            || (scope.to_string(), Origin::Default),
            |entry| (entry.name(), entry.origin.clone()),
        )
    }
}

/// The keys that say where requests go.
const TARGETS: [&str; 2] = ["export.endpoint", "export.file"];

/// The signals that are sent.
const SIGNALS: [Signal; 3] = [Signal::Logs, Signal::Metrics, Signal::Traces];

/// Where Collectors receive OTLP/gRPC.
const GRPC_PORT: u16 = 4317;

/// Where they receive OTLP/HTTP.
const HTTP_PORT: u16 = 4318;
