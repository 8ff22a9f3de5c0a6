//! Runs a second agent, which is made to lose events: its ring buffer is small, it is suspended for a while,
//! and one of its destinations is unreachable. The queries of docs/queries.md must find these losses. The
//! losses are also compared with the records that both agents wrote into files.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use acceptd_otlp::names;
use anyhow::{Context, Result, ensure};

use super::stack::{STOP, Stack, create_folder};
use crate::{
    agent, host,
    ledger::Ledger,
    process::{Running, until},
    records::{Record, Tail},
    suite::Suite,
};

/// The number of connections while the agent is suspended: several times as many as the smallest ring buffer
/// holds.
const CONNECTIONS: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(30);
/// The name of the destination at which no server listens.
pub(super) const UNREACHABLE: &str = "away";

/// The running agent, which has lost events.
pub(super) struct LossyAgent {
    agent: Running,
    /// The port on which the connections were accepted.
    port: u16,
    records: PathBuf,
    /// How many events were lost in the ring buffer, by the agent's own record.
    pub(super) lost_in_ring: u32,
}

impl LossyAgent {
    /// Starts the agent, suspends it while [`CONNECTIONS`] are accepted, and waits until it reports the loss.
    pub(super) fn start(stack: &Stack, suite: &Suite, folder: &Path) -> Result<Self> {
        let folder = create_folder(folder.join("loss"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
        let port = listener.local_addr()?.port();
        let records = folder.join("records.jsonl");
        let settings = [
            stack.pipeline.victorialogs_settings(),
            vec![
                format!("destinations.records.file={}", records.display()),
                format!("destinations.{UNREACHABLE}.endpoint=127.0.0.1:{}", host::free_port()?),
                format!("destinations.{UNREACHABLE}.retry_window=0s"),
                format!("admin.listen=127.0.0.1:{}", host::free_port()?),
                format!("filter.ports={port}"),
                // The dashboards sum by host, so this agent needs a host name of its own.
                "host.name=loses".to_owned(),
                "capture.ring_bytes=64KiB".to_owned(),
                "capture.pin_directory=none".to_owned(),
                "metrics.interval=2s".to_owned(),
                "traces.export=false".to_owned(),
            ],
        ]
        .concat();
        let mut agent =
            agent::start_with(&suite.program("acceptd"), &folder, stack.pipeline.port, &settings)?;
        let mut arrived = Tail::new(records.clone());
        until("the second agent to capture", PATIENCE, || {
            agent.require_alive()?;
            Ok((!arrived.read()?.is_empty()).then_some(()))
        })?;
        agent.pause()?;
        for _ in 0..CONNECTIONS {
            let _client = TcpStream::connect(listener.local_addr()?)?;
            listener.accept()?;
        }
        agent.resume()?;
        let lost_in_ring = until("the agent to report the lost events", PATIENCE, || {
            agent.require_alive()?;
            let lost = arrived.read()?.into_iter().find(|record| loss_reason(record) == Some("ring"));
            Ok(lost.and_then(|lost| lost.attribute(names::ACCEPTD_LOSS_COUNT).parse().ok()))
        })?;
        Ok(Self { agent, port, records, lost_in_ring })
    }

    /// Stops the agent. Checks that the number of accepts that it lacks, compared with the agent of `stack`,
    /// is the number that it reported as lost. Returns the uids of its records.
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
        let (complete, kept) = (accepts(&Tail::new(stack.records.clone()).read()?), accepts(&all));
        ensure!(
            complete == CONNECTIONS,
            "{complete} of {CONNECTIONS} accepts were captured by the first agent, which must not lose any"
        );
        let missing = CONNECTIONS.checked_sub(kept).context("more accepts than connections")? as u64;
        let lost = ledger.term("capture", "lost")?;
        ensure!(
            missing > 0 && lost == missing && lost == u64::from(self.lost_in_ring),
            "{missing} accepts are missing, {} events are reported as lost, {lost} by the ledger",
            self.lost_in_ring
        );
        Ok(all.iter().map(|record| record.attribute(names::LOG_RECORD_UID).to_owned()).collect())
    }
}

/// The reason in a record of lost events; `None` for other records.
fn loss_reason(record: &Record) -> Option<&str> {
    (record.event_name == names::EVENT_ACCEPTD_EVENTS_LOST)
        .then(|| record.attribute(names::ACCEPTD_LOSS_REASON))
}
