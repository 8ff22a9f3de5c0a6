//! A real Jaeger, with otel-config/jaeger/jaeger.yaml.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;

use crate::{
    go::{
        Program, {self},
    },
    host, http,
    process::{Running, until},
    workspace::Workspace,
};

const PROGRAM: Program<'_> = Program {
    title: "Jaeger",
    name: "jaeger",
    folder: "tests/jaeger",
    package: "github.com/jaegertracing/jaeger/cmd/jaeger",
    modfile: None,
    tags: "",
    takes: "six or seven minutes",
};

const READY: Duration = Duration::from_secs(30);
/// More than any suite makes: what was sent is still there at the end.
const TRACES: &str = "1000000";

/// It runs.
pub(crate) struct Jaeger {
    pub(crate) process: Running,
    /// Where it receives OTLP over gRPC, on 127.0.0.1.
    pub(crate) otlp: u16,
    /// Where it answers.
    pub(crate) query: u16,
}

pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    go::build(workspace, &PROGRAM)
}

impl Jaeger {
    /// Its own metrics go to a Prometheus, if there is one.
    pub(crate) fn start(workspace: &Workspace, folder: &Path, prometheus: Option<u16>) -> Result<Self> {
        let binary = build(workspace)?;
        let (otlp, query, grpc) = (host::free_port()?, host::free_port()?, host::free_port()?);
        let mut jaeger = Command::new(binary);
        jaeger.arg("--config").arg(workspace.path("otel-config/jaeger/jaeger.yaml"));
        for (name, port) in [("OTLP", otlp), ("QUERY", query), ("GRPC", grpc)] {
            jaeger.env(format!("ACCEPTD_JAEGER_{name}_ADDRESS"), format!("127.0.0.1:{port}"));
        }
        jaeger.env("ACCEPTD_JAEGER_TRACES", TRACES);
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

    /// The data of an answer; nothing when Jaeger does not know it.
    pub(crate) fn ask(&self, path: &str) -> Result<Value> {
        // It answers 404 with a body, too.
        let (_, body) = http::get(self.query, path)?;
        let mut answer: Value = serde_json::from_str(&body)?;
        Ok(answer["data"].take())
    }
}
