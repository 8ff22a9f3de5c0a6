//! `export.*` as the exporter wants it.

use std::fs;

use acceptd_otlp::{Settings, Signal, SpoolConfig, Target, Tls};

use crate::config::{Config, Endpoint, Protocol};

/// Where requests of one signal go, and how.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Where to.
    pub target: Target,
    /// How.
    pub settings: Settings,
    /// Host and port, for people and for looking whether somebody answers there.
    pub address: String,
}

/// The destination of logs; none when nothing is to be sent.
///
/// # Errors
/// A file of headers that cannot be used, with the remedy.
pub fn of_logs(config: &Config) -> Result<Option<Destination>, String> {
    let Some(endpoint) = config.endpoint_of_logs() else { return Ok(None) };
    let is_whole = config.export_logs.endpoint.is_some();
    Ok(Some(Destination {
        target: target(endpoint, config.export.protocol, Signal::Logs, is_whole),
        settings: settings(config)?,
        address: endpoint.address(),
    }))
}

/// The folder, within `spool.directory`, of the destination that the configuration's `export` describes.
const DEFAULT: &str = "default";

/// Where requests wait for the destination, if not in memory.
#[must_use]
pub fn spool(config: &Config) -> Option<SpoolConfig> {
    let spool = &config.spool;
    Some(SpoolConfig {
        folder: spool.directory.as_ref()?.join(DEFAULT),
        max_bytes: spool.max_bytes as u64,
        max_age: spool.max_age,
        sync: spool.fsync.into(),
        order: spool.replay_order.into(),
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
        compression: export.compression.into(),
        timeout: export.timeout,
    })
}
