//! Starts `VictoriaLogs`.

use std::{path::Path, process::Command};

use anyhow::Result;
use xtask_support::External;

use super::backend::Backend;
use crate::{host, suite::Suite};

pub(super) fn start(suite: &Suite, folder: &Path) -> Result<Backend> {
    let port = host::free_port()?;
    let mut server = Command::new(suite.external(External::VictoriaLogs)?);
    server.arg(format!("-httpListenAddr=127.0.0.1:{port}"));
    server.arg(format!("-storageDataPath={}", folder.join("data").display()));
    Backend::start("VictoriaLogs", server, folder, port, "/health")
}
