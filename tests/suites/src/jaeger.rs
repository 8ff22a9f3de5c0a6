//! A real Jaeger, with otel-config/jaeger/jaeger.yaml.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;
use serde_json::Value;
use xtask_support::External;

use crate::{
    host, http,
    process::{Running, until},
    suite::Suite,
};

const READY: Duration = Duration::from_secs(30);

/// How many traces Jaeger keeps in memory. No suite makes more, so none is evicted.
const MAX_TRACES: &str = "1000000";

/// A running Jaeger.
pub(crate) struct Jaeger {
    pub(crate) process: Running,
    /// The port on 127.0.0.1 that receives OTLP over gRPC.
    pub(crate) otlp: u16,
    /// The port on 127.0.0.1 that answers queries.
    pub(crate) query: u16,
}

impl Jaeger {
    /// Starts Jaeger and waits until it answers. Jaeger sends its own metrics to the port `prometheus`, if
    /// given.
    pub(crate) fn start(suite: &Suite, folder: &Path, prometheus: Option<u16>) -> Result<Self> {
        let (otlp, query, grpc) = (host::free_port()?, host::free_port()?, host::free_port()?);
        let mut jaeger = Command::new(suite.external(External::Jaeger)?);
        jaeger.arg("--config").arg(suite.path("otel-config/jaeger/jaeger.yaml"));
        for (name, port) in [("OTLP", otlp), ("QUERY", query), ("GRPC", grpc)] {
            jaeger.env(format!("ACCEPTD_JAEGER_{name}_ADDRESS"), format!("127.0.0.1:{port}"));
        }
        jaeger.env("ACCEPTD_JAEGER_TRACES", MAX_TRACES);
        if let Some(port) = prometheus {
            jaeger.env("ACCEPTD_JAEGER_METRICS", "normal");
            jaeger.env("ACCEPTD_PROMETHEUS_ENDPOINT", format!("http://127.0.0.1:{port}"));
        }
        let (out, log) = (folder.join("jaeger.out"), folder.join("jaeger.log"));
        let process = Running::start("Jaeger", jaeger, &out, &log)?;
        let mut jaeger = Self { process, otlp, query };
        until("Jaeger to answer", READY, || {
            jaeger.process.require_alive()?;
            Ok(jaeger.ask("/api/services").ok())
        })?;
        Ok(jaeger)
    }

    /// The member `data` of the answer to a GET; null for a trace that Jaeger does not know.
    pub(crate) fn ask(&self, path: &str) -> Result<Value> {
        // Jaeger's answer 404 has a JSON body, too.
        let (_, body) = http::get(self.query, path)?;
        let mut answer: Value = serde_json::from_str(&body)?;
        Ok(answer["data"].take())
    }
}
