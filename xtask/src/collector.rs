//! The real OpenTelemetry Collector of tests/collector, in each of its three ways.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    go::{
        Program, {self},
    },
    host, http,
    process::{Running, until},
    workspace::Workspace,
};

const READY: Duration = Duration::from_secs(30);

/// A Collector that runs.
pub(crate) struct Sink {
    pub(crate) process: Running,
    /// Where it receives OTLP over gRPC, on 127.0.0.1.
    pub(crate) port: u16,
    /// Where it receives OTLP over HTTP, likewise.
    pub(crate) http_port: u16,
    /// Where its file exporter writes, if it has one.
    pub(crate) file: PathBuf,
}

/// Of the parts in go.mod, but for those of elastic.mod.
pub(crate) const VERSION: &str = "0.161.0";

/// With what configurations for one machine name.
const CORE: Program<'_> = Program {
    title: "the Collector",
    name: "otelcol",
    folder: "tests/collector",
    package: ".",
    modfile: None,
    tags: "",
    takes: "two to four minutes",
};

/// With what those for many machines name, too.
const CONTRIB: Program<'_> = Program {
    title: "the Collector for many machines",
    name: "otelcol-contrib",
    tags: "contrib",
    takes: "four or five minutes",
    ..CORE
};

/// With what elastic.yaml names.
const ELASTIC: Program<'_> = Program {
    title: "the Collector with Elasticsearch's exporter",
    name: "otelcol-elastic",
    modfile: Some("elastic.mod"),
    tags: "elastic",
    takes: "three or four minutes",
    ..CORE
};

/// Builds that for one machine, once; returns its path.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    go::build(workspace, &CORE)
}

/// [`build`], while others are built.
pub(crate) fn ahead(workspace: &Workspace) -> Result<()> {
    go::build_ahead(workspace, &CORE)
}

/// [`build_elastic`] likewise.
pub(crate) fn elastic_ahead(workspace: &Workspace) -> Result<()> {
    go::build_ahead(workspace, &ELASTIC)
}

/// [`build`] of that for many.
pub(crate) fn build_contrib(workspace: &Workspace) -> Result<PathBuf> {
    go::build(workspace, &CONTRIB)
}

/// [`build`] with Elasticsearch's exporter.
pub(crate) fn build_elastic(workspace: &Workspace) -> Result<PathBuf> {
    go::build(workspace, &ELASTIC)
}

/// Starts the Collector with otel-config/minimal.yaml's components on free loopback ports and waits until it is ready.
pub(crate) fn start(binary: &Path, folder: &Path) -> Result<Sink> {
    start_with(binary, folder, &[include_str!("../../otel-config/minimal.yaml")], &[])
}

/// [`start`] with other configurations, each on top of the one before, that take the same variables, and more of the environment.
pub(crate) fn start_with(
    binary: &Path,
    folder: &Path,
    configs: &[&str],
    environment: &[(&str, &OsStr)],
) -> Result<Sink> {
    start_as(Command::new(binary), folder, configs, environment)
}

/// [`start_with`] by a command that becomes the Collector. Of a variable that both give, the environment's value counts.
pub(crate) fn start_as(
    mut collector: Command,
    folder: &Path,
    configs: &[&str],
    environment: &[(&str, &OsStr)],
) -> Result<Sink> {
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
        Ok(healthy(health).then_some(()))
    })?;
    Ok(Sink { process, port, http_port, file })
}

/// Whether the health check answers 200.
fn healthy(port: u16) -> bool {
    http::get(port, "/").is_ok_and(|(status, _)| status == 200)
}

/// Whether a Collector takes these configurations, each on top of the one before; its own words where it does not.
pub(crate) fn validate(binary: &Path, configs: &[PathBuf]) -> Result<()> {
    let mut collector = Command::new(binary);
    // What kubernetes.yaml cannot do without.
    collector.arg("validate").env("KUBE_NODE_NAME", "node");
    for config in configs {
        collector.arg("--config").arg(config);
    }
    crate::command::capture(collector).map(drop).context("a configuration is not valid")
}
