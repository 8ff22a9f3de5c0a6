//! `cargo xtask e2e`: nginx and other servers accept, a real Collector receives, and each server's own word is the truth. With
//! `--full` also what Jaeger shows, and what a Collector adds on Kubernetes.

mod compare;
pub(crate) mod hostile;
pub(crate) mod jaeger;
mod kubernetes;
mod load;
mod mptcp;
mod nginx;
mod report;
mod servers;

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hostile::Hostile;
use mptcp::Accepts;
use nginx::Nginx;
use report::Figures;

use crate::{
    Extent, agent, apt, build, collector, host,
    ledger::Ledger,
    process::{Running, until},
    records::{Record, Tail},
    workspace::Workspace,
};

const QUICK: usize = 2_000;
const FULL: usize = 20_000;
const CLIENTS: usize = 50;
const NGINX_WORKERS: usize = 2;

/// Connections of each kind to each of the other servers.
const CONNECTIONS_QUICK: usize = 50;
const CONNECTIONS_FULL: usize = 1_000;

/// How long to wait for records after the last request.
const ARRIVAL: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);

/// Runs the suite; with `--full` writes docs/results/e2e.md.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    host::require_root("e2e")?;
    apt::require("nginx", "-v", "nginx")?;
    servers::require()?;
    let collector = collector::build(workspace)?;
    let binary = build::suites(workspace, extent.profile())?.join("acceptd");
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let requests = if extent.full { FULL } else { QUICK };
    // PostgreSQL runs as another user, who has to reach its folder.
    let others = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .context("no temporary folder")?;
    let go_listener = mptcp::build(workspace, others.path())?;
    let programs = Programs { agent: &binary, collector: &collector, go_listener: &go_listener };
    let mut figures = measure(&programs, folder.path(), requests)?;
    let connections = if extent.full { CONNECTIONS_FULL } else { CONNECTIONS_QUICK };
    figures.others = Some(servers::measure(&binary, &collector, others.path(), connections)?);
    if extent.full {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        figures.trace = Some(jaeger::measure(workspace, &binary, &collector, folder.path())?);
        let folder = tempfile::tempdir().context("no temporary folder")?;
        kubernetes::measure(workspace, &binary, folder.path())?;
    }
    println!("{figures}");
    if extent.full {
        report::write(workspace, &figures)?;
    }
    Ok(())
}

/// What was built for the run.
struct Programs<'a> {
    agent: &'a Path,
    collector: &'a Path,
    go_listener: &'a Path,
}

/// What was accepted beside nginx's requests, and what must arrive of it.
struct Others {
    names: Vec<Hostile>,
    go: Accepts,
}

impl Others {
    fn arrived(&self, records: &[Record]) -> bool {
        self.names.iter().all(|name| hostile::of(name, records).is_some())
            && mptcp::arrived(&self.go, records)
    }
}

fn measure(programs: &Programs<'_>, folder: &Path, requests: usize) -> Result<Figures> {
    let sink = collector::start(programs.collector, folder)?;
    let go_without = mptcp::accept(programs.go_listener)?;
    let mut arrived = Tail::new(sink.file.clone());
    let nginx = Nginx::start(folder, NGINX_WORKERS)?;
    let mut agent = agent::start(programs.agent, folder, sink.port)?;
    let mut records = agent::wait_until_captures(&mut agent, &mut arrived)?;

    let others =
        Others { names: hostile::accept_under_each_name(folder)?, go: mptcp::accept(programs.go_listener)? };
    eprintln!("sending {requests} requests without keep-alive from {CLIENTS} clients");
    let started = Instant::now();
    load::send(nginx.port(), requests, CLIENTS)?;
    let load = started.elapsed();
    let truth = nginx.wait_for_log(requests)?;
    let workers = compare::workers(&truth)?;
    wait_for(&mut agent, &mut arrived, &mut records, &truth, &others)?;

    let ledger = Ledger::from_log(&agent.stop(STOP)?)?;
    nginx.stop(STOP)?;
    sink.process.stop(STOP)?;
    // What came in while the agent flushed: an extra record must not go unseen.
    records.extend(arrived.read()?);

    compare::connections(&truth, &records)?;
    compare::identities(&workers, &records)?;
    hostile::check(&others.names, &records)?;
    mptcp::check(&go_without, &others.go, &records)?;
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

/// Waits until there are as many records of nginx as lines in its log, and those of the others; whether they are
/// the right ones is decided later.
fn wait_for(
    agent: &mut Running,
    arrived: &mut Tail,
    records: &mut Vec<Record>,
    truth: &[nginx::Accepted],
    others: &Others,
) -> Result<()> {
    let waited = until("the records of all requests", ARRIVAL, || {
        agent.require_alive()?;
        records.extend(arrived.read()?);
        Ok((others.arrived(records) && compare::of_nginx(truth, records).len() >= truth.len()).then_some(()))
    });
    if waited.is_err() {
        // Which ones are missing says more than that some are.
        compare::connections(truth, records)?;
        hostile::check(&others.names, records)?;
    }
    waited
}
