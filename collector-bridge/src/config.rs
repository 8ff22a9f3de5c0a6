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
mod raw;
mod schema;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use choice::{CaptureTier, LogLevel, OutputFormat, Profile, Protocol};
pub use endpoint::Endpoint;
pub use error::{ConfigError, Problem};
pub use file::DEFAULT_PATH;
pub use layer::Flag;
pub use origin::Origin;
pub use pairs::Headers;
pub use print::{Setting, default_file};
pub use schema::{
    AttributeSelection, Batch, Capture, Config, Events, Export, ExportLogs, ExportTls, Filter, FilterExclude,
    Host, Limits, ListenerWatch, Log, Queue, ResourceAdditions, Shutdown, Spool, State,
};
pub use values::Family;

use env::Environment;
use file::Source;
use layer::Entry;

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
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Where the value of `key` comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
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
    };
    loaded.apply_leniently(standard.fallback);
    problems.extend(loaded.apply(file_entries));
    loaded.apply_leniently(standard.entries);
    problems.extend(loaded.apply(env_entries));
    problems.extend(loaded.apply(flag_entries));
    loaded.derive();

    let conflicts = loaded.config.conflicts().into_iter();
    problems.extend(conflicts.map(|(key, cause)| Problem::Conflict {
        key,
        origin: loaded.origin(key),
        cause,
    }));
    ConfigError::unless_empty(problems)?;
    Ok(loaded)
}

impl Loaded {
    /// Sets `entries`; those that cannot be used are returned.
    fn apply(&mut self, entries: Vec<Entry>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for Entry { key, raw, origin } in entries {
            if raw.is_unset() {
                continue;
            }
            match (key.set)(&mut self.config, &raw) {
                Ok(()) => _ = self.origins.insert(key.name, origin),
                Err(cause) => problems.push(Problem::Value { origin, key: key.name, cause }),
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
        if let Some(endpoint) = &mut self.config.export.endpoint
            && self.origins.get("export.endpoint") == Some(&Origin::Env("OTEL_LOGS_EXPORTER".to_owned()))
            && self.config.export.protocol == Protocol::Http
        {
            // The specification's default of this protocol.
            endpoint.set_port(HTTP_PORT);
        }
        let Some(endpoint) = self.config.endpoint_of_logs().cloned() else { return };
        let key = if self.config.export_logs.endpoint.is_some() {
            "export.logs.endpoint"
        } else {
            "export.endpoint"
        };
        if self.origin("output") == Origin::Default {
            self.config.output = None;
        }
        if let Some(authorization) = endpoint.authorization()
            && self.config.export.headers.insert_missing("authorization", authorization)
        {
            let origin = self.origin(key);
            self.origins.entry("export.headers").or_insert(origin);
        }
        let mistaken = match (self.config.export.protocol, endpoint.port()) {
            (Protocol::Grpc, HTTP_PORT) => Some(("OTLP over HTTP", "gRPC", GRPC_PORT)),
            (Protocol::Http, GRPC_PORT) => Some(("OTLP over gRPC", "HTTP", HTTP_PORT)),
            _ => None,
        };
        if let Some((other, ours, port)) = mistaken {
            self.warnings.push(format!(
                "{key} ({}): port {} is where Collectors receive {other}, and this speaks {ours}; use port {port}, or another export.protocol",
                self.origin(key),
                endpoint.port()
            ));
        }
    }
}

/// Where Collectors receive OTLP/gRPC.
const GRPC_PORT: u16 = 4317;

/// Where they receive OTLP/HTTP.
const HTTP_PORT: u16 = 4318;
