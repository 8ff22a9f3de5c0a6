//! The real OpenTelemetry Collector of tests/collector.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::go::{self, Program};
use crate::process::{Running, until};
use crate::workspace::Workspace;
use crate::{host, http};

const READY: Duration = Duration::from_secs(30);

/// A Collector that runs.
pub(crate) struct Sink {
    pub(crate) process: Running,
    /// Where it receives OTLP over gRPC, on 127.0.0.1.
    pub(crate) port: u16,
    /// Where it receives OTLP over HTTP, likewise.
    pub(crate) http_port: u16,
    /// Where its file exporter writes.
    pub(crate) file: PathBuf,
}

const COLLECTOR: Program<'_> = Program {
    title: "the Collector",
    name: "otelcol",
    folder: "tests/collector",
    package: ".",
    takes: "one to three minutes",
};

/// Builds the Collector, once; returns its path.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    go::build(workspace, &COLLECTOR)
}

/// Starts the Collector with otel-config/minimal.yaml's components on free loopback ports and waits until it is ready.
pub(crate) fn start(binary: &Path, folder: &Path) -> Result<Sink> {
    start_with(binary, folder, include_str!("../../otel-config/minimal.yaml"), &[])
}

/// [`start`] with another configuration that takes the same variables, and more of the environment.
pub(crate) fn start_with(
    binary: &Path,
    folder: &Path,
    config: &str,
    environment: &[(&str, &OsStr)],
) -> Result<Sink> {
    let (port, http_port, health) = (host::free_port()?, host::free_port()?, host::free_port()?);
    let file = folder.join("collector.jsonl");
    let mut collector = Command::new(binary);
    collector
        .arg("--config=env:ACCEPTD_COLLECTOR_CONFIG")
        .env("ACCEPTD_COLLECTOR_CONFIG", config)
        .envs(environment.iter().copied())
        .env("ACCEPTD_OTLP_ADDRESS", format!("127.0.0.1:{port}"))
        .env("ACCEPTD_OTLP_HTTP_ADDRESS", format!("127.0.0.1:{http_port}"))
        .env("ACCEPTD_HEALTH_ADDRESS", format!("127.0.0.1:{health}"))
        .env("ACCEPTD_FILE", &file);
    let (out, log) = (folder.join("collector.out"), folder.join("collector.log"));
    let mut process = Running::start("the Collector", collector, &out, &log)?;
    until("the Collector's health check", READY, || {
        process.require_alive()?;
        Ok(healthy(health).then_some(()))
    })?;
    Ok(Sink { process, port, http_port, file })
}

/// Whether the health check answers 200.
fn healthy(port: u16) -> bool {
    http::get(port, "/").is_ok_and(|(status, _)| status == 200)
}
