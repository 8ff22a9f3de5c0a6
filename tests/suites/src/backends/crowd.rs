//! Runs the workload's crowd: clients that connect from many addresses at a given rate.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::workload;
use crate::process::{Running, until_after};

/// How many connections to make, how fast, and from how many addresses.
#[derive(Clone, Copy)]
pub(super) struct CrowdPlan {
    /// Connections per second.
    pub(super) rate: u32,
    pub(super) seconds: u32,
    pub(super) addresses: u32,
}

/// The running clients.
pub(super) struct Crowd {
    plan: CrowdPlan,
    running: Running,
    out: PathBuf,
}

impl CrowdPlan {
    pub(super) fn connections(self) -> usize {
        self.rate as usize * self.seconds as usize
    }
}

impl Crowd {
    /// Starts the clients against `server`. The command `workload` must end with the program workload,
    /// because the arguments of the crowd are appended to it.
    pub(super) fn start(mut workload: Command, server: &str, plan: CrowdPlan, folder: &Path) -> Result<Self> {
        workload.args(["crowd", server]);
        for (flag, number) in
            [("--rate", plan.rate), ("--seconds", plan.seconds), ("--addresses", plan.addresses)]
        {
            workload.arg(flag).arg(number.to_string());
        }
        let running = workload::start_program("crowd", workload, folder)?;
        Ok(Self { plan, running, out: folder.join("crowd.out") })
    }

    pub(super) fn has_exited(&mut self) -> Result<bool> {
        self.running.has_exited()
    }

    /// Waits until all connections were made, and returns the summary that the clients print. Fails if they
    /// took more than 10 % longer than planned, and as soon as `require_alive` fails.
    pub(super) fn finish(mut self, mut require_alive: impl FnMut() -> Result<()>) -> Result<String> {
        let planned = Duration::from_secs(self.plan.seconds.into());
        until_after(Duration::from_secs(1), "the clients to exit", 2 * planned, || {
            require_alive()?;
            Ok(self.has_exited()?.then_some(()))
        })?;
        let output =
            fs::read_to_string(&self.out).with_context(|| format!("reading {}", self.out.display()))?;
        let output = output.trim_end();
        let seconds = output
            .strip_prefix(&format!("connected {} in ", self.plan.connections()))
            .and_then(|rest| rest.strip_suffix(" s")?.parse::<f64>().ok());
        let Some(seconds) = seconds else {
            bail!("the clients failed: {output}{}", self.running.log()?.trim_end())
        };
        ensure!(seconds < 1.1 * planned.as_secs_f64(), "the clients were too slow: {output}");
        Ok(output.to_owned())
    }
}
