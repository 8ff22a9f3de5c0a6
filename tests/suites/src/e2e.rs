//! The suite e2e: nginx and other servers accept, a real Collector receives. Each record is compared with
//! what the server itself logged. With `--full`, also the traces in Jaeger, and the names that a Collector
//! adds on Kubernetes. Servers as they are installed, and other people's test suites, are compared with the
//! kernel's counters, too.

mod capture;
mod clients;
mod compare;
mod counters;
mod deadlines;
mod defaults;
mod foreign;
pub(crate) mod hostile;
pub(crate) mod jaeger;
mod kubernetes;
mod load;
mod mptcp;
mod nginx;
mod report;
mod sandbox;
mod series;
mod servers;
mod told;
mod traffic;

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use deadlines::{ARRIVAL, STOP};
use hostile::Hostile;
use mptcp::GoAccepts;
use nginx::Nginx;
use report::Figures;
use xtask_support::{Extent, External, files, root};

use crate::{
    agent, collector,
    ledger::Ledger,
    process::{Running, until},
    records::{Record, Tail},
    suite::Suite,
};

const QUICK: usize = 2_000;
const FULL: usize = 20_000;
const CLIENTS: usize = 50;
const NGINX_WORKERS: usize = 2;

/// Connections of each kind to each of the other servers.
const CONNECTIONS_QUICK: usize = 50;
const CONNECTIONS_FULL: usize = 1_000;

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Servers whose log names each connection
    Logs,
    /// Servers as they are installed, and test suites of other projects
    Traffic,
}

/// Runs the suite, or one part of it. With `--full`, writes docs/results/e2e.md.
pub(crate) fn run(suite: &Suite, extent: Extent, only: Option<Part>) -> Result<()> {
    root::require("e2e")?;
    let wants = |part| only.is_none_or(|only| only == part);
    if wants(Part::Logs) {
        compare_logs(suite, extent)?;
    }
    if wants(Part::Traffic) {
        traffic::measure(suite, extent)?;
    }
    Ok(())
}

fn compare_logs(suite: &Suite, extent: Extent) -> Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let requests = if extent.full { FULL } else { QUICK };
    // PostgreSQL runs as another user, who must be able to enter the folder.
    let others = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .context("no temporary folder")?;
    // The process takes its executable's name, which records are compared with, from the file.
    let go_listener = others.path().join("golistener");
    files::copy(suite.external(External::GoListener)?, &go_listener)?;
    let mut figures = measure(suite, &go_listener, folder.path(), requests)?;
    let connections = if extent.full { CONNECTIONS_FULL } else { CONNECTIONS_QUICK };
    figures.others = Some(servers::measure(suite, others.path(), connections)?);
    if extent.full {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        figures.trace = Some(jaeger::measure(suite, folder.path())?);
        let folder = tempfile::tempdir().context("no temporary folder")?;
        kubernetes::measure(suite, folder.path())?;
    }
    println!("{figures}");
    if extent.full {
        report::write(&suite.workspace, &figures)?;
    }
    Ok(())
}

/// The connections beside nginx's requests. Their records must arrive, too.
struct Others {
    names: Vec<Hostile>,
    go: GoAccepts,
}

impl Others {
    fn have_arrived(&self, records: &[Record]) -> bool {
        self.names.iter().all(|name| hostile::find(name, records).is_some())
            && mptcp::have_arrived(&self.go, records)
    }
}

fn measure(suite: &Suite, go_listener: &Path, folder: &Path, requests: usize) -> Result<Figures> {
    let collector = collector::start(suite.external(External::Collector)?, folder)?;
    let go_without_agent = mptcp::accept(go_listener)?;
    let mut arrived = Tail::new(collector.file.clone());
    let nginx = Nginx::start(folder, NGINX_WORKERS)?;
    let mut agent = agent::start(&suite.program("acceptd"), folder, collector.port)?;
    let mut records = agent::wait_until_captures(&mut agent, &mut arrived)?;

    let others = Others { names: hostile::accept_under_each_name(folder)?, go: mptcp::accept(go_listener)? };
    eprintln!("sending {requests} requests without keep-alive from {CLIENTS} clients");
    let started = Instant::now();
    load::send(nginx.port(), requests, CLIENTS)?;
    let load = started.elapsed();
    let expected = nginx.wait_for_log(requests)?;
    let workers = compare::workers(&expected)?;
    wait_for(&mut agent, &mut arrived, &mut records, &expected, &others)?;

    let ledger = Ledger::from_log(&agent.stop(STOP)?)?;
    nginx.stop(STOP)?;
    collector.process.stop(STOP)?;
    // Read what came in while the agent flushed, so that a surplus record is noticed.
    records.extend(arrived.read()?);

    compare::connections(&expected, &records)?;
    compare::identities(&workers, &records)?;
    hostile::check(&others.names, &records)?;
    mptcp::check(&go_without_agent, &others.go, &records)?;
    ledger.check()?;
    let sent = usize::try_from(ledger.records()?)?;
    if sent != records.len() {
        bail!("the agent says that it sent {sent} records, the Collector wrote {}", records.len());
    }
    Ok(Figures {
        requests,
        workers: workers.len(),
        hostile: others.names.len(),
        records: records.len(),
        load,
        others: None,
        trace: None,
        seen: ledger.term("capture", "seen")?,
    })
}

/// Waits until there are as many records of nginx as lines in its log, and the records of the others. Whether
/// they are the right ones is checked later.
fn wait_for(
    agent: &mut Running,
    arrived: &mut Tail,
    records: &mut Vec<Record>,
    expected: &[nginx::Accepted],
    others: &Others,
) -> Result<()> {
    let waited = until("the records of all requests", ARRIVAL, || {
        agent.require_alive()?;
        records.extend(arrived.read()?);
        let nginx_records = compare::nginx_records(expected, records).len();
        Ok((others.have_arrived(records) && nginx_records >= expected.len()).then_some(()))
    });
    if waited.is_err() {
        // These errors name the missing records, unlike that of the deadline.
        compare::connections(expected, records)?;
        hostile::check(&others.names, records)?;
    }
    waited
}
