//! Loki, as one process.

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

const PROGRAM: Program<'_> = Program {
    title: "Loki",
    name: "loki",
    folder: "tests/loki",
    package: "github.com/grafana/loki/v3/cmd/loki",
    modfile: None,
    tags: "",
    takes: "six minutes",
};

pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    go::build(workspace, &PROGRAM)
}

pub(super) fn start(workspace: &Workspace, folder: &Path) -> Result<Backend> {
    let binary = build(workspace)?;
    let (port, grpc) = (host::free_port()?, host::free_port()?);
    let mut server = Command::new(binary);
    server
        .arg(format!("-config.file={}", workspace.path("otel-config/loki/loki.yaml").display()))
        .arg("-config.expand-env=true")
        .env("ACCEPTD_LOKI_ADDRESS", "127.0.0.1")
        .env("ACCEPTD_LOKI_PORT", port.to_string())
        .env("ACCEPTD_LOKI_GRPC_PORT", grpc.to_string())
        .env("ACCEPTD_LOKI_DATA", folder.join("data"));
    // Its /ready waits for a ring of one to settle; it takes records before that.
    Backend::start("Loki", server, folder, port, "/loki/api/v1/labels")
}
