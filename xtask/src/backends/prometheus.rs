//! Prometheus, which takes metrics over OTLP.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::backend::Backend;
use crate::{
    go::{
        Program, {self},
    },
    host,
    workspace::Workspace,
};

/// Without its web page, which is not part of the module, and without what finds targets of clouds.
const PROGRAM: Program<'_> = Program {
    title: "Prometheus",
    name: "prometheus",
    folder: "tests/prometheus",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    modfile: None,
    tags: "remove_all_sd",
    takes: "two minutes",
};

pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    go::build(workspace, &PROGRAM)
}

pub(super) fn start(workspace: &Workspace, folder: &Path) -> Result<Backend> {
    let binary = build(workspace)?;
    let port = host::free_port()?;
    let mut server = Command::new(binary);
    server
        .arg(format!("--config.file={}", workspace.path("otel-config/prometheus/prometheus.yaml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--web.enable-otlp-receiver");
    Backend::start("Prometheus", server, folder, port, "/-/ready")
}
