//! One backend process, which answers HTTP queries on 127.0.0.1: start, readiness, memory, stop.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::{
    http,
    process::{Running, until},
};

/// How long a backend may take to answer after its start: twice as long as Elasticsearch needs on two busy
/// CPUs.
const READY: Duration = Duration::from_mins(2);
const STOP: Duration = Duration::from_mins(1);

/// A running backend.
pub(super) struct Backend {
    process: Running,
    /// The port that answers queries.
    pub(super) port: u16,
    /// The exit code that the backend must have after SIGTERM.
    pub(super) exit_code: i32,
}

impl Backend {
    /// Starts a backend whose output goes to files in `folder`, and waits until it answers a GET of the path
    /// `ready` with status 200. The expected exit code is 0.
    pub(super) fn start(
        name: &'static str,
        command: Command,
        folder: &Path,
        port: u16,
        ready: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let (out, log) = (folder.join("out"), folder.join("log"));
        let mut backend = Self { process: Running::start(name, command, &out, &log)?, port, exit_code: 0 };
        until(&format!("{name} to answer"), READY, || {
            backend.process.require_alive()?;
            Ok(http::get(port, ready).is_ok_and(|(status, _)| status == 200).then_some(()))
        })?;
        Ok(backend)
    }

    /// Takes over a process that already answers on `port`.
    pub(super) fn from_running(process: Running, port: u16) -> Self {
        Self { process, port, exit_code: 0 }
    }

    /// Fails if the process has exited. The error has its stderr.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        self.process.require_alive()
    }

    /// The peak resident memory of the process (`VmHWM`), in MiB.
    pub(super) fn peak_mebibytes(&self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.process.pid());
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let kibibytes = peak.and_then(|peak| peak.parse::<u64>().ok());
        Ok(kibibytes.with_context(|| format!("{file} has no VmHWM"))? / 1024)
    }

    /// Stops the process with SIGTERM. An exit code other than [`Backend::exit_code`] is an error.
    pub(super) fn stop(self) -> Result<()> {
        self.process.stop_with(STOP, self.exit_code).map(drop)
    }
}
