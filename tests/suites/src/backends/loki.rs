//! Starts Loki as a single process.

use std::{path::Path, process::Command};

use anyhow::Result;
use xtask_support::External;

use super::backend::Backend;
use crate::{host, suite::Suite};

pub(super) fn start(suite: &Suite, folder: &Path) -> Result<Backend> {
    let (port, grpc) = (host::free_port()?, host::free_port()?);
    let mut server = Command::new(suite.external(External::Loki)?);
    server
        .arg(format!("-config.file={}", suite.path("otel-config/loki/loki.yaml").display()))
        .arg("-config.expand-env=true")
        .env("ACCEPTD_LOKI_ADDRESS", "127.0.0.1")
        .env("ACCEPTD_LOKI_PORT", port.to_string())
        .env("ACCEPTD_LOKI_GRPC_PORT", grpc.to_string())
        .env("ACCEPTD_LOKI_DATA", folder.join("data"));
    // Loki accepts records before its ring is stable. /ready would wait for that, so another path is
    // requested.
    Backend::start("Loki", server, folder, port, "/loki/api/v1/labels")
}
