//! The OpenTelemetry Collector of tests/collector: starts it, and validates configurations.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use xtask_support::command::capture;

use crate::{
    host, http,
    process::{Running, until},
};

const READY: Duration = Duration::from_secs(30);

/// A running Collector.
pub(crate) struct Collector {
    pub(crate) process: Running,
    /// The port on 127.0.0.1 that receives OTLP over gRPC.
    pub(crate) port: u16,
    /// The port on 127.0.0.1 that receives OTLP over HTTP.
    pub(crate) http_port: u16,
    /// The file of the file exporter, if the configuration has one.
    pub(crate) file: PathBuf,
}

/// The version of the components in tests/collector/go.mod. Those of elastic.mod have another one.
pub(crate) const VERSION: &str = "0.161.0";

/// Starts the Collector with otel-config/minimal.yaml on free loopback ports, and waits until it is ready.
pub(crate) fn start(binary: &Path, folder: &Path) -> Result<Collector> {
    start_with(binary, folder, &[include_str!("../../../otel-config/minimal.yaml")], &[])
}

/// [`start`] with other configurations and more environment variables. Each configuration overrides the one
/// before; all take the same variables as minimal.yaml.
pub(crate) fn start_with(
    binary: &Path,
    folder: &Path,
    configs: &[&str],
    environment: &[(&str, &OsStr)],
) -> Result<Collector> {
    start_as(Command::new(binary), folder, configs, environment)
}

/// [`start_with`] by a command that executes the Collector at its end. `environment` overrides the variables
/// that this function sets.
pub(crate) fn start_as(
    mut collector: Command,
    folder: &Path,
    configs: &[&str],
    environment: &[(&str, &OsStr)],
) -> Result<Collector> {
    let (port, http_port, health) = (host::free_port()?, host::free_port()?, host::free_port()?);
    let file = folder.join("collector.jsonl");
    for (number, config) in configs.iter().enumerate() {
        let variable = format!("ACCEPTD_COLLECTOR_CONFIG_{number}");
        collector.arg(format!("--config=env:{variable}")).env(variable, config);
    }
    collector
        .env("ACCEPTD_OTLP_ADDRESS", format!("127.0.0.1:{port}"))
        .env("ACCEPTD_OTLP_HTTP_ADDRESS", format!("127.0.0.1:{http_port}"))
        .env("ACCEPTD_HEALTH_ADDRESS", format!("127.0.0.1:{health}"))
        .env("ACCEPTD_FILE", &file)
        .envs(environment.iter().copied());
    let (out, log) = (folder.join("collector.out"), folder.join("collector.log"));
    let mut process = Running::start("the Collector", collector, &out, &log)?;
    until("the Collector's health check", READY, || {
        process.require_alive()?;
        Ok(is_healthy(health).then_some(()))
    })?;
    Ok(Collector { process, port, http_port, file })
}

fn is_healthy(port: u16) -> bool {
    http::get(port, "/").is_ok_and(|(status, _)| status == 200)
}

/// Fails, with the Collector's own message, unless the Collector accepts these configurations. Each overrides
/// the one before.
pub(crate) fn validate(binary: &Path, configs: &[PathBuf]) -> Result<()> {
    let mut collector = Command::new(binary);
    // kubernetes.yaml requires the variable.
    collector.arg("validate").env("KUBE_NODE_NAME", "node");
    for config in configs {
        collector.arg("--config").arg(config);
    }
    capture(collector).map(drop).context("a configuration is not valid")
}
