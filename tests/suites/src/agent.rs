//! Starts the agent as a process, and waits until it captures accepts.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    process::{Running, until},
    records::{Record, Tail},
};

/// Loading the programs takes under a second; a machine that compiles at the same time may need longer.
const READY: Duration = Duration::from_secs(30);

/// Starts `acceptd run` with every attribute. The host's own configuration and variables do not apply; the
/// agent's files are in `folder`.
pub(crate) fn start(binary: &Path, folder: &Path, collector_port: u16) -> Result<Running> {
    start_with(binary, folder, collector_port, &[] as &[&str])
}

/// [`start`] with more settings, each `KEY=VALUE`.
pub(crate) fn start_with(
    binary: &Path,
    folder: &Path,
    collector_port: u16,
    settings: &[impl AsRef<str>],
) -> Result<Running> {
    let config = folder.join("acceptd.toml");
    std::fs::write(&config, "").context("writing an empty configuration")?;
    let mut run = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("ACCEPTD_") || name.starts_with("OTEL_")) {
            run.env_remove(name);
        }
    }
    run.args([
        "run",
        "--attributes",
        "full",
        "--endpoint",
        &format!("127.0.0.1:{collector_port}"),
        "--config",
    ]);
    run.arg(config).arg("--set").arg(format!("state.directory={}", folder.join("state").display()));
    run.args(["--set", "batch.timeout=200ms"]);
    // Never sample: every accept must become a record.
    run.args(["--set", "overload.max_records_per_second=100000000"]);
    run.args(settings.iter().flat_map(|setting| ["--set", setting.as_ref()]));
    Running::start("acceptd run", run, &folder.join("agent.out"), &folder.join("agent.log"))
}

/// Accepts connections of this process until the record of one arrives in the file `arrived`. This proves
/// that the whole pipeline works, and depends on no message of the agent. Returns the records that were read
/// meanwhile.
pub(crate) fn wait_until_captures(agent: &mut Running, arrived: &mut Tail) -> Result<Vec<Record>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
    let own = std::process::id().to_string();
    let mut seen = Vec::new();
    until("the first record to arrive", READY, || {
        agent.require_alive()?;
        let _probe = TcpStream::connect(listener.local_addr()?)?;
        listener.accept()?;
        let new = arrived.read()?;
        let ready = new.iter().any(|record| record.resource("process.pid") == own);
        seen.extend(new);
        Ok(ready.then_some(()))
    })?;
    Ok(seen)
}
