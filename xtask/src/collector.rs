//! The real OpenTelemetry Collector of tests/collector: built once, kept in the user's cache.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{self, capture};
use crate::host;
use crate::process::{Running, until};
use crate::workspace::Workspace;

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

/// Builds the Collector unless the cache holds one of these very sources; returns its path.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let sources = workspace.path("tests/collector");
    let binary = cache()?.join(format!("otelcol-{:016x}", fingerprint(&sources)?));
    if binary.exists() {
        return Ok(binary);
    }
    if !command::exists("go", "version") {
        bail!(
            "`go` is not on the PATH, and the Collector is built with it: install Go 1.26 or newer from go.dev"
        );
    }
    eprintln!("building the Collector of tests/collector into {}, one to three minutes", binary.display());
    let started = Instant::now();
    let unfinished = binary.with_extension("tmp");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
        .arg(&unfinished);
    go.arg(".").current_dir(&sources).env("GOPROXY", proxy()?).env_remove("GOFLAGS");
    command::run(go).context("the Collector did not build: the Go module proxy must be reachable")?;
    std::fs::rename(&unfinished, &binary).context("moving the Collector into the cache")?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    Ok(binary)
}

/// Starts the Collector with otel-config/minimal.yaml's components on free loopback ports and waits until it is ready.
pub(crate) fn start(binary: &Path, folder: &Path) -> Result<Sink> {
    let (port, http_port, health) = (host::free_port()?, host::free_port()?, host::free_port()?);
    let file = folder.join("collector.jsonl");
    let mut collector = Command::new(binary);
    collector
        .arg("--config=env:ACCEPTD_COLLECTOR_CONFIG")
        .env("ACCEPTD_COLLECTOR_CONFIG", include_str!("../../otel-config/minimal.yaml"))
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
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}

/// Outside the checkout, so that `git clean` does not cost minutes.
fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: there is nowhere to keep the Collector")?;
    let folder = base.join("acceptd");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Changes with every source file; it names a cached file, it protects nothing.
fn fingerprint(sources: &Path) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for name in ["go.mod", "go.sum", "main.go", "components.go"] {
        let path = sources.join(name);
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// The first proxy only: a module that it does not have must fail at once, not be looked for at its origin.
fn proxy() -> Result<String> {
    let mut ask = Command::new("go");
    ask.args(["env", "GOPROXY"]);
    let all = capture(ask)?;
    Ok(all.split([',', '|']).next().unwrap_or_default().to_owned())
}
