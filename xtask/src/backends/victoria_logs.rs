//! `VictoriaLogs`, with its web page.

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
    title: "VictoriaLogs",
    name: "victoria-logs",
    folder: "tests/victoria-logs",
    package: "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs",
    modfile: None,
    tags: "",
    takes: "a minute",
};

pub(super) fn ahead(workspace: &Workspace) -> Result<()> {
    go::build_ahead(workspace, &PROGRAM)
}

pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    go::build(workspace, &PROGRAM)
}

pub(super) fn start(workspace: &Workspace, folder: &Path) -> Result<Backend> {
    let binary = build(workspace)?;
    let port = host::free_port()?;
    let mut server = Command::new(binary);
    server.arg(format!("-httpListenAddr=127.0.0.1:{port}"));
    server.arg(format!("-storageDataPath={}", folder.join("data").display()));
    Backend::start("VictoriaLogs", server, folder, port, "/health")
}
