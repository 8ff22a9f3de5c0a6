//! Loads the configuration: reads each layer, lets the highest layer decide each value, and checks the
//! result.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use acceptd_otlp::Signal;

use super::{
    choice::Protocol,
    env::{self, Environment},
    error::{ConfigError, Problem},
    file::{self, ConfigFile, DEFAULT_PATH},
    layer::{self, Entry, Flag},
    loaded::{HTTP_PORT, Loaded, View},
    origin::Origin,
    otel,
    schema::Config,
    scope::Scope,
};

/// The default port of OTLP/gRPC.
const GRPC_PORT: u16 = 4317;

/// Loads the configuration from `file` (or else from [`DEFAULT_PATH`], if that exists), from the environment
/// `env` and from the command line's `flags`.
///
/// # Errors
/// Everything that is wrong in any of the layers, each [`Problem`] with its place, cause and remedy.
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &[Flag],
) -> Result<Loaded, ConfigError> {
    let file = file::read(file, Path::new(DEFAULT_PATH))?;
    resolve(file.as_ref(), &env.into_iter().collect(), flags)
}

/// [`load`] with a file that was already read.
pub(super) fn resolve(
    file: Option<&ConfigFile>,
    env: &Environment,
    flags: &[Flag],
) -> Result<Loaded, ConfigError> {
    let (file_entries, mut problems) = file.map(file::parse).unwrap_or_default();
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
        file: file.map(|file| file.path.clone()),
        origins: BTreeMap::new(),
        scoped: Vec::new(),
    };
    loaded.apply_leniently(standard.fallback);
    problems.extend(loaded.apply(file_entries));
    loaded.apply_leniently(standard.entries);
    problems.extend(loaded.apply(env_entries));
    problems.extend(loaded.apply(flag_entries));
    loaded.derive_output();
    loaded.warn_of_mistaken_ports();

    problems.extend(loaded.conflicts());
    ConfigError::unless_empty(problems)?;
    Ok(loaded)
}

impl Loaded {
    /// Sets `entries`, and returns a problem for each entry that cannot be used.
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

    /// Sets `entries`; an entry that cannot be used becomes a warning, as OpenTelemetry requires of its
    /// variables.
    fn apply_leniently(&mut self, entries: Vec<Entry>) {
        let problems = self.apply(entries);
        self.warnings.extend(problems.iter().map(otel::ignored));
    }

    /// An endpoint and a file exclude each other: the key `set`, just set by `origin`, unsets the other one
    /// if a lower layer set it.
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

    /// Records that are sent somewhere are printed only if `output` was set.
    fn derive_output(&mut self) {
        let has_records = |scope: &Scope| !matches!(scope, Scope::Signal(Signal::Metrics | Signal::Traces));
        let is_sent = self.scopes().filter(has_records).any(|scope| self.view(&scope).config.is_sent());
        if is_sent && self.origin("output") == Origin::Default {
            self.config.output = None;
        }
    }

    /// Adds a warning for each endpoint whose port is the default of the other protocol.
    fn warn_of_mistaken_ports(&mut self) {
        let mistaken: Vec<String> = self.scopes().filter_map(|scope| self.mistaken_port(&scope)).collect();
        for warning in mistaken {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    fn mistaken_port(&self, scope: &Scope) -> Option<String> {
        let Config { export, .. } = self.view(scope).config;
        let port = export.endpoint?.port();
        let (expected, configured, default_port) = match (export.protocol, port) {
            (Protocol::Grpc, HTTP_PORT) => ("http/protobuf", "grpc", GRPC_PORT),
            (Protocol::Http, GRPC_PORT) => ("grpc", "http/protobuf", HTTP_PORT),
            _ => return None,
        };
        let (key, origin) = self.effective_key(scope, "export.endpoint");
        Some(format!(
            "{key} ({origin}): Collectors receive {expected} on port {port}, but export.protocol is {configured}; use port {default_port}, or set export.protocol to {expected}"
        ))
    }

    /// Values that are valid by themselves but contradict each other.
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
                let (key, origin) = self.first_key(&scope);
                let cause = format!("the destination has no address: set {scope}endpoint or {scope}file");
                found.push((key, origin, cause));
            }
            for (key, cause) in config.conflicts_of_export() {
                let (key, origin) = self.effective_key(&scope, key);
                if !found.iter().any(|(known, ..)| *known == key) {
                    found.push((key, origin, cause));
                }
            }
        }
        found.into_iter().map(|(key, origin, cause)| Problem::Conflict { key, origin, cause }).collect()
    }
}
