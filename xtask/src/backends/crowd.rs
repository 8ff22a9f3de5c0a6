//! The workload's crowd: clients of many addresses, in a rate and a number that are known.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::workload;
use crate::process::{Running, until_after};

/// What it does.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Connections a second.
    pub(super) rate: u32,
    pub(super) seconds: u32,
    pub(super) addresses: u32,
}

/// It runs.
pub(super) struct Crowd {
    plan: Plan,
    running: Running,
    out: PathBuf,
}

impl Plan {
    pub(super) fn connections(self) -> usize {
        self.rate as usize * self.seconds as usize
    }
}

impl Crowd {
    /// By a command that becomes the workload.
    pub(super) fn start(mut workload: Command, server: &str, plan: Plan, folder: &Path) -> Result<Self> {
        workload.args(["crowd", server]);
        for (flag, number) in
            [("--rate", plan.rate), ("--seconds", plan.seconds), ("--addresses", plan.addresses)]
        {
            workload.arg(flag).arg(number.to_string());
        }
        let running = workload::run("crowd", workload, folder)?;
        Ok(Self { plan, running, out: folder.join("crowd.out") })
    }

    pub(super) fn has_ended(&mut self) -> Result<bool> {
        self.running.has_ended()
    }

    /// When all connections were made, in hardly more time than planned: what it says of them.
    pub(super) fn finish(mut self, mut alive: impl FnMut() -> Result<()>) -> Result<String> {
        let planned = Duration::from_secs(self.plan.seconds.into());
        until_after(Duration::from_secs(1), "the clients to end", 2 * planned, || {
            alive()?;
            Ok(self.has_ended()?.then_some(()))
        })?;
        let said =
            fs::read_to_string(&self.out).with_context(|| format!("reading {}", self.out.display()))?;
        let said = said.trim_end();
        let seconds = said
            .strip_prefix(&format!("connected {} in ", self.plan.connections()))
            .and_then(|rest| rest.strip_suffix(" s")?.parse::<f64>().ok());
        let Some(seconds) = seconds else {
            bail!("the clients failed: {said}{}", self.running.log()?.trim_end())
        };
        ensure!(seconds < 1.1 * planned.as_secs_f64(), "the clients were too slow: {said}");
        Ok(said.to_owned())
    }
}
