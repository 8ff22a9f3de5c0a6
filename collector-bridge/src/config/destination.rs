//! `export.*` as the exporter wants it: from a view of the configuration to a target, its settings and its
//! spool.

use std::fs;

use acceptd_otlp::{ExporterConfig, Signal, SpoolConfig, Target, Tls, TransportSettings};

use super::{
    choice::Protocol,
    endpoint::Endpoint,
    loaded::{Loaded, View},
    schema::Config,
    scope::{DEFAULT_DESTINATION, Scope},
};

/// The name of the destination of spans, and of its folder within `spool.directory`. The dot keeps it apart
/// from the names that the configuration can define.
pub(crate) const TRACES_DESTINATION: &str = "default.traces";

/// Where the requests of one signal go, and how they are sent.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// A Collector or a file.
    pub(crate) target: Target,
    /// Headers, TLS, compression and timeout.
    pub(crate) settings: TransportSettings,
    /// `host:port` of a Collector, for messages and for a test connection; `None` for a file.
    pub(crate) address: Option<String>,
}

/// The destinations of log records: the name of each with its view of the configuration.
#[must_use]
pub(crate) fn record_destinations(loaded: &Loaded) -> Vec<(String, View)> {
    let default = (DEFAULT_DESTINATION.to_owned(), loaded.view(&Scope::Signal(Signal::Logs)));
    let others = loaded.destinations().into_iter().map(|name| {
        let name = name.to_owned();
        let view = loaded.view(&Scope::Destination(name.clone()));
        (name, view)
    });
    std::iter::once(default).chain(others).filter(|(_, view)| view.config.is_sent()).collect()
}

/// Whether the traces of connections are sent.
#[must_use]
pub(crate) fn sends_traces(loaded: &Loaded) -> bool {
    let config = loaded.view(&Scope::Signal(Signal::Traces)).config;
    config.traces.export && config.is_sent()
}

impl Destination {
    /// Where `view` sends `signal`; `None` if it is not sent. Reads `export.headers_file`.
    ///
    /// # Errors
    /// The file of headers cannot be used; the message names the remedy.
    pub(crate) fn from_view(view: &View, signal: Signal) -> Result<Option<Self>, String> {
        let export = &view.config.export;
        if let Some(path) = &export.file {
            let target = Target::File(path.clone());
            return Ok(Some(Self { target, settings: settings(&view.config)?, address: None }));
        }
        let Some(endpoint) = &export.endpoint else { return Ok(None) };
        Ok(Some(Self {
            target: target(endpoint, export.protocol, signal, view.has_own_endpoint),
            settings: settings(&view.config)?,
            address: Some(endpoint.address()),
        }))
    }

    /// The configuration of an exporter that delivers to this destination.
    #[must_use]
    pub(crate) fn exporter_config(self, config: &Config, spool: Option<SpoolConfig>) -> ExporterConfig {
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

/// The spool of the destination called `name`; `None` if its requests wait in memory.
#[must_use]
pub(crate) fn spool_config(config: &Config, name: &str) -> Option<SpoolConfig> {
    let spool = &config.spool;
    Some(SpoolConfig {
        folder: spool.directory.as_ref()?.join(name),
        max_bytes: spool.max_bytes as u64,
        max_age: spool.max_age,
        sync: spool.fsync,
        order: spool.replay_order,
    })
}

/// `is_whole`: whether the endpoint is the whole URL, so no path is added to it.
fn target(endpoint: &Endpoint, protocol: Protocol, signal: Signal, is_whole: bool) -> Target {
    match protocol {
        Protocol::Grpc => Target::Grpc(endpoint.uri()),
        Protocol::Http if is_whole => Target::Http(endpoint.uri()),
        Protocol::Http => Target::Http(endpoint.uri() + signal.path()),
    }
}

fn settings(config: &Config) -> Result<TransportSettings, String> {
    let export = &config.export;
    let mut headers = export.headers.clone();
    if let Some(file) = &export.headers_file {
        let unusable = |cause: String| {
            format!(
                "export.headers_file {}: {cause}; write one header a line, as `name: value`",
                file.display()
            )
        };
        let text = fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
        headers.extend_from_lines(&text).map_err(unusable)?;
    }
    Ok(TransportSettings {
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
