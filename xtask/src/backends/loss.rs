//! An agent that loses what it is made to lose, beside ours that loses nothing: its ring is small and nobody reads it for a while, and
//! one of its destinations is not there. What docs/queries.md finds of that is held against what both wrote into files.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::stack::{
    STOP, Stack, {self},
};
use crate::{
    agent, host,
    ledger::Ledger,
    process::{Running, until},
    records::{Record, Tail},
};

/// Several times what the smallest ring holds.
const CONNECTIONS: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Who is not there.
pub(super) const AWAY: &str = "away";

/// It runs, and has lost.
pub(super) struct Loss {
    agent: Running,
    /// Where the connections were accepted.
    port: u16,
    records: PathBuf,
    /// Events that the ring had no place for, as the agent told.
    pub(super) ring: u32,
}

impl Loss {
    pub(super) fn start(stack: &Stack, programs: &Path, folder: &Path) -> Result<Self> {
        let folder = stack::made(folder.join("loss"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
        let port = listener.local_addr()?.port();
        let records = folder.join("records.jsonl");
        let settings = [
            stack.behind.settings_of_victorialogs(),
            vec![
                format!("destinations.records.file={}", records.display()),
                format!("destinations.{AWAY}.endpoint=127.0.0.1:{}", host::free_port()?),
                format!("destinations.{AWAY}.retry_window=0s"),
                format!("admin.listen=127.0.0.1:{}", host::free_port()?),
                format!("filter.ports={port}"),
                // The dashboard's sums are by host, of one agent each.
                "host.name=loses".to_owned(),
                "capture.ring_bytes=64KiB".to_owned(),
                "capture.pin_directory=none".to_owned(),
                "metrics.interval=2s".to_owned(),
                "traces.export=false".to_owned(),
            ],
        ]
        .concat();
        let mut agent = agent::start_with(&programs.join("acceptd"), &folder, stack.behind.port, &settings)?;
        let mut arrived = Tail::new(records.clone());
        until("the agent that loses to capture", PATIENCE, || {
            agent.require_alive()?;
            Ok((!arrived.read()?.is_empty()).then_some(()))
        })?;
        agent.pause()?;
        for _ in 0..CONNECTIONS {
            let _client = TcpStream::connect(listener.local_addr()?)?;
            listener.accept()?;
        }
        agent.resume()?;
        let ring = until("the agent to tell what it lost", PATIENCE, || {
            agent.require_alive()?;
            let told = arrived.read()?.into_iter().find(|record| reason(record) == Some("ring"));
            Ok(told.and_then(|told| told.attribute("acceptd.loss.count").parse().ok()))
        })?;
        Ok(Self { agent, port, records, ring })
    }

    /// Ends it. Returns the ids of its records, which are fewer than of the agent that loses nothing by what it says that it lost.
    pub(super) fn stop(self, stack: &Stack) -> Result<HashSet<String>> {
        let ledger = Ledger::from_log(&self.agent.stop(STOP)?)?;
        ledger.balance()?;
        let all = Tail::new(self.records).read()?;
        let accepts = |records: &[Record]| {
            let port = self.port.to_string();
            let is_here =
                |record: &&Record| record.is_accept() && record.attribute("network.local.port") == port;
            records.iter().filter(is_here).count()
        };
        let (ours, kept) = (accepts(&Tail::new(stack.records.clone()).read()?), accepts(&all));
        ensure!(
            ours == CONNECTIONS,
            "{ours} of {CONNECTIONS} accepts were captured by the agent that loses nothing"
        );
        let missing = CONNECTIONS.checked_sub(kept).context("more accepts than connections")? as u64;
        let lost = ledger.term("capture", "lost")?;
        ensure!(
            missing > 0 && lost == missing && lost == u64::from(self.ring),
            "{missing} accepts are missing, {} events are told as lost, {lost} by the ledger",
            self.ring
        );
        Ok(all.iter().map(|record| record.attribute("log.record.uid").to_owned()).collect())
    }
}

/// Why events are missing.
fn reason(record: &Record) -> Option<&str> {
    (record.event_name == "acceptd.events.lost").then(|| record.attribute("acceptd.loss.reason"))
}
