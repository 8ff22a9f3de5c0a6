//! `export.*` as the exporter wants it.

use std::fs;

use acceptd_otlp::{ExporterConfig, Settings, Signal, SpoolConfig, Target, Tls};

use crate::config::{Config, Endpoint, Loaded, Protocol, Scope, View};

/// Where requests of one signal go, and how.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Where to.
    pub target: Target,
    /// How.
    pub settings: Settings,
    /// Host and port, for people and for looking whether somebody answers there; nothing for a file.
    pub address: Option<String>,
}

/// The destinations of records by name, each with its part of the configuration.
#[must_use]
pub fn of_records(loaded: &Loaded) -> Vec<(String, View)> {
    let default = (DEFAULT.to_owned(), loaded.view(&Scope::Signal(Signal::Logs)));
    let others = loaded.destinations().into_iter().map(|name| {
        let name = name.to_owned();
        let view = loaded.view(&Scope::Destination(name.clone()));
        (name, view)
    });
    std::iter::once(default).chain(others).filter(|(_, view)| view.config.is_sent()).collect()
}

/// Whether the traces of connections have somewhere to go.
#[must_use]
pub fn has_traces(loaded: &Loaded) -> bool {
    let config = loaded.view(&Scope::Signal(Signal::Traces)).config;
    config.traces.export && config.is_sent()
}

/// Where a view of the configuration sends a signal; none when there is nowhere to send it to.
///
/// # Errors
/// A file of headers that cannot be used, with the remedy.
pub fn of(view: &View, signal: Signal) -> Result<Option<Destination>, String> {
    let export = &view.config.export;
    if let Some(path) = &export.file {
        let target = Target::File(path.clone());
        return Ok(Some(Destination { target, settings: settings(&view.config)?, address: None }));
    }
    let Some(endpoint) = &export.endpoint else { return Ok(None) };
    Ok(Some(Destination {
        target: target(endpoint, export.protocol, signal, view.has_own_endpoint),
        settings: settings(&view.config)?,
        address: Some(endpoint.address()),
    }))
}

impl Destination {
    /// How to deliver to it.
    #[must_use]
    pub fn exporter(self, config: &Config, spool: Option<SpoolConfig>) -> ExporterConfig {
        let export = &config.export;
        ExporterConfig {
            target: self.target,
            settings: self.settings,
            timeout: export.timeout,
            retry_window: export.retry_window,
            backoff_initial: export.backoff_initial,
            backoff_max: export.backoff_max,
            queue_max_bytes: config.queue.max_bytes,
            concurrency: export.concurrency,
            spool,
            sync_interval: config.spool.fsync_interval,
        }
    }
}

/// The name of the destination that the configuration's `export` describes; its folder within `spool.directory`, too.
pub const DEFAULT: &str = "default";

/// The folder of spans within `spool.directory`. No destination can have this name.
pub const TRACES: &str = "default.traces";

/// Where requests wait for the destination of this name, if not in memory.
#[must_use]
pub fn spool(config: &Config, name: &str) -> Option<SpoolConfig> {
    let spool = &config.spool;
    Some(SpoolConfig {
        folder: spool.directory.as_ref()?.join(name),
        max_bytes: spool.max_bytes as u64,
        max_age: spool.max_age,
        sync: spool.fsync,
        order: spool.replay_order,
    })
}

fn target(endpoint: &Endpoint, protocol: Protocol, signal: Signal, is_whole: bool) -> Target {
    match protocol {
        Protocol::Grpc => Target::Grpc(endpoint.uri()),
        Protocol::Http if is_whole => Target::Http(endpoint.uri()),
        Protocol::Http => Target::Http(endpoint.uri() + signal.path()),
    }
}

fn settings(config: &Config) -> Result<Settings, String> {
    let export = &config.export;
    let mut headers = export.headers.clone();
    if let Some(file) = &export.headers_file {
        let unusable = |cause: String| {
            format!(
                "export.headers_file {}: {cause}; it has one header a line, `name: value`",
                file.display()
            )
        };
        let text = fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
        headers.extend_from_lines(&text).map_err(unusable)?;
    }
    Ok(Settings {
        headers: headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        tls: Tls {
            ca_file: config.export_tls.ca_file.clone(),
            identity: config.export_tls.cert_file.clone().zip(config.export_tls.key_file.clone()),
            server_name: config.export_tls.server_name.clone(),
        },
        compression: export.compression,
        timeout: export.timeout,
    })
}
