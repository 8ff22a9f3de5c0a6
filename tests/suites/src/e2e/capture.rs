//! The agent with a Collector, and the records that arrived, for a part of the suite.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use xtask_support::External;

use super::{
    deadlines::{ARRIVAL, STOP},
    series::Series,
};
use crate::{
    agent,
    collector::{self, Collector},
    host, http,
    ledger::Ledger,
    process::{Running, until},
    records::{Record, Tail},
    suite::Suite,
};

/// Longer than two surveys of the queues, and than a batch.
const QUIET: Duration = Duration::from_millis(2_500);

/// A running agent and Collector.
pub(super) struct Capture {
    collector: Collector,
    agent: Running,
    arrived: Tail,
    records: Vec<Record>,
    admin: u16,
}

impl Capture {
    /// Starts both, and waits until accepts are captured.
    pub(super) fn start(suite: &Suite, folder: &Path) -> Result<Self> {
        let collector = collector::start(suite.external(External::Collector)?, folder)?;
        let mut arrived = Tail::new(collector.file.clone());
        let admin = host::free_port()?;
        let settings = ["listener.interval=500ms".to_owned(), format!("admin.listen=127.0.0.1:{admin}")];
        let mut agent = agent::start_with(&suite.program("acceptd"), folder, collector.port, &settings)?;
        let records = agent::wait_until_captures(&mut agent, &mut arrived)?;
        Ok(Self { collector, agent, arrived, records, admin })
    }

    /// Waits until the records that arrived are enough, or until the deadline: which are missing is for the
    /// judgement.
    pub(super) fn wait(&mut self, what: &str, enough: impl Fn(&[Record]) -> bool) -> Result<()> {
        let waited = until(what, ARRIVAL, || {
            self.agent.require_alive()?;
            self.records.extend(self.arrived.read()?);
            Ok(enough(&self.records).then_some(()))
        });
        self.agent.require_alive()?;
        if let Err(error) = waited {
            eprintln!("{error:#}");
        }
        Ok(())
    }

    /// Waits until the agent has read the queues of all listeners twice, and sent what it found.
    pub(super) fn wait_for_surveys(&mut self) -> Result<()> {
        std::thread::sleep(QUIET);
        self.agent.require_alive()
    }

    /// The series of listeners.
    pub(super) fn series(&self) -> Result<Vec<Series>> {
        let (status, text) = http::get(self.admin, "/metrics").context("the agent's metrics")?;
        if status != 200 {
            bail!("/metrics was answered {status}");
        }
        Ok(Series::parse(&text))
    }

    /// Stops both, and returns all records and the ledger.
    pub(super) fn stop(mut self) -> Result<(Vec<Record>, Ledger)> {
        let ledger = Ledger::from_log(&self.agent.stop(STOP)?)?;
        self.collector.process.stop(STOP)?;
        self.records.extend(self.arrived.read()?);
        Ok((self.records, ledger))
    }
}
