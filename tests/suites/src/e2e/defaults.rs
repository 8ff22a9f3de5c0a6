//! Real servers in the configuration in which they are installed, each in a network namespace of its own.
//! Each connection has a record, by the server's own word; owner and service are right; and no overflow,
//! abandoned connection or stall is reported that did not happen.

mod apache;
mod bun;
mod deno;
mod dovecot;
mod facts;
mod gunicorn;
mod haproxy;
mod judgement;
mod memcached;
mod node;
mod php;
mod server;
mod socket_activate;
mod uwsgi;

use std::path::Path;

use anyhow::{Context, Result};
use facts::{Facts, ListenerFacts, Reach};
pub(crate) use judgement::Row;
use server::Server;
use xtask_support::External;

use super::{capture::Capture, clients, deadlines::READY, sandbox::Sandbox, told::Told};
use crate::{process::until, suite::Suite};

/// Half-open handshakes with each server, beside its connections.
const PROBES: u16 = 200;

type Start<'a> = &'a dyn Fn(&Sandbox, &Path) -> Result<Server>;

/// Lets each server accept this many connections, and returns a row for each.
pub(super) fn measure(suite: &Suite, folder: &Path, connections: usize) -> Result<Vec<Row>> {
    let mut capture = Capture::start(suite, folder)?;
    let bun = |sandbox: &Sandbox, folder: &Path| bun::start(sandbox, folder, suite.external(External::Bun)?);
    let deno =
        |sandbox: &Sandbox, folder: &Path| deno::start(sandbox, folder, suite.external(External::Deno)?);
    let starts: [Start<'_>; 12] = [
        &apache::start,
        &uwsgi::start,
        &gunicorn::start,
        &gunicorn::start_crowded,
        &haproxy::start,
        &memcached::start,
        &dovecot::start,
        &node::start,
        &bun,
        &deno,
        &socket_activate::start_accepting,
        &socket_activate::start_passing,
    ];
    // Servers and sandboxes stay until their records are judged.
    let (mut sandboxes, mut servers, mut facts) = (Vec::new(), Vec::new(), Vec::new());
    for (number, start) in starts.into_iter().enumerate() {
        let sandbox = Sandbox::start(folder, &format!("server-{number}"))?;
        let mut server = start(&sandbox, folder)?;
        facts.push(serve(&sandbox, &mut server, connections).with_context(|| server.name)?);
        sandboxes.push(sandbox);
        servers.push(server);
    }
    let sandbox = Sandbox::start(folder, "php")?;
    let mut php = php::start(&sandbox, folder)?;
    facts.push(php.serve(&sandbox, connections).context("PHP-FPM")?);

    capture.wait("the records of all servers", |records| {
        facts.iter().all(|facts| {
            let wanted: usize = facts.listeners.iter().map(|listener| listener.report.count()).sum();
            let told = Told::of(facts.netns, records);
            told.accepts("tcp").len() + told.accepts("unix").len() >= wanted
        })
    })?;
    capture.wait_for_surveys()?;
    let series = capture.series()?;
    // The agent ends first: the end of the servers is not judged here.
    let (records, ledger) = capture.stop()?;
    ledger.check()?;
    Ok(facts.iter().flat_map(|facts| judgement::judge(facts, &records, &series)).collect())
}

/// Waits until a server listens, makes the connections, and returns the facts.
fn serve(sandbox: &Sandbox, server: &mut Server, connections: usize) -> Result<Facts> {
    until("the server to listen", READY, || {
        server.process.require_alive()?;
        Ok(sandbox.listens(&server.port.to_string())?.then_some(()))
    })?;
    let before = sandbox.processes()?;
    let report = server.serve(sandbox, (server.connections)(connections))?;
    sandbox.enter(|| clients::half_open(server.port, PROBES))?;
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let listener = ListenerFacts {
        name: server.name,
        reach: Reach::Port(server.port),
        report,
        refused: 0,
        executables: owned(server.executables),
        owners: owned(server.owners),
        service: server.naming(),
    };
    let after = sandbox.processes()?;
    let processes = (!server.is_short_lived).then(|| before.union(&after).copied().collect());
    let counters = sandbox.counters()?;
    Ok(Facts { netns: sandbox.netns, counters, listeners: vec![listener], processes, probes: PROBES })
}
