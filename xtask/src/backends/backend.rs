//! A backend that runs on 127.0.0.1, as a program of its own.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::{
    http,
    process::{Running, until},
};

/// Elasticsearch on two busy CPUs takes half of this.
const READY: Duration = Duration::from_mins(2);
const STOP: Duration = Duration::from_mins(1);

/// It answers.
pub(super) struct Backend {
    process: Running,
    /// Where it is asked.
    pub(super) port: u16,
    /// What it exits with after SIGTERM.
    pub(super) code: i32,
}

impl Backend {
    /// Starts it, its output in `folder`, which is made if it is not there, and waits until it answers a GET of `ready` with success.
    pub(super) fn start(
        name: &'static str,
        command: Command,
        folder: &Path,
        port: u16,
        ready: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let (out, log) = (folder.join("out"), folder.join("log"));
        let mut backend = Self { process: Running::start(name, command, &out, &log)?, port, code: 0 };
        until(&format!("{name} to answer"), READY, || {
            backend.process.require_alive()?;
            Ok(http::get(port, ready).is_ok_and(|(status, _)| status == 200).then_some(()))
        })?;
        Ok(backend)
    }

    /// One that runs already.
    pub(super) fn of(process: Running, port: u16) -> Self {
        Self { process, port, code: 0 }
    }

    /// Fails, with what it said, once it has ended by itself.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        self.process.require_alive()
    }

    /// What it had resident at most, in MiB.
    pub(super) fn peak_mebibytes(&self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.process.pid());
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let kibibytes = peak.and_then(|peak| peak.parse::<u64>().ok());
        Ok(kibibytes.with_context(|| format!("{file} has no VmHWM"))? / 1024)
    }

    /// In good order: another exit code than 0 is an error.
    pub(super) fn stop(self) -> Result<()> {
        self.process.stop_with(STOP, self.code).map(drop)
    }
}
