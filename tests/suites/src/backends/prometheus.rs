//! Starts Prometheus with its OTLP receiver.

use std::{path::Path, process::Command};

use anyhow::Result;
use xtask_support::External;

use super::backend::Backend;
use crate::{host, suite::Suite};

pub(super) fn start(suite: &Suite, folder: &Path) -> Result<Backend> {
    let port = host::free_port()?;
    let mut server = Command::new(suite.external(External::Prometheus)?);
    server
        .arg(format!("--config.file={}", suite.path("otel-config/prometheus/prometheus.yaml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--web.enable-otlp-receiver");
    Backend::start("Prometheus", server, folder, port, "/-/ready")
}
