//! Servers that run at the same time, each of which reports its own accepts and process id: nginx, Redis,
//! PostgreSQL, HAProxy, Go, Node and Java, over TCP and, if they have them, UNIX sockets; a server that runs
//! out of descriptors, watched by strace; and servers in containers.

pub(super) mod containers;
mod descriptors;
mod go;
mod haproxy;
mod java;
mod node;
mod postgres;
mod redis;
mod server;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    thread,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use server::{AcceptedByServer, Server, exchange};
use xtask_support::External;

use super::{
    compare,
    deadlines::{ARRIVAL, READY, STOP},
    load,
    nginx::Nginx,
};
use crate::{
    agent, collector,
    ledger::Ledger,
    process::until,
    records::{Record, Tail},
    suite::Suite,
};

const NGINX_WORKERS: usize = 4;
const NGINX_CLIENTS: usize = 8;

/// How many accepts of one server were compared.
pub(crate) struct ServerFigures {
    pub(crate) server: &'static str,
    pub(crate) tcp: usize,
    pub(crate) unix: usize,
}

/// The figures of a run without a difference.
pub(crate) struct Measured {
    pub(crate) servers: Vec<ServerFigures>,
    /// Failed accepts of the server without descriptors.
    pub(crate) emfile: u64,
    /// Containers that served.
    pub(crate) containers: usize,
}

/// Lets each server accept this many connections of each kind, and compares the records with what it says.
pub(crate) fn measure(suite: &Suite, folder: &Path, connections: usize) -> Result<Measured> {
    let collector = collector::start(suite.external(External::Collector)?, folder)?;
    let mut arrived = Tail::new(collector.file.clone());
    let mut agent = agent::start_with(
        &suite.program("acceptd"),
        folder,
        // Over HTTP: the records of the first part of the suite come over gRPC.
        collector.http_port,
        &[
            "export.protocol=http/protobuf",
            "export.compression=zstd",
            "events.failures=true",
            "listener.interval=500ms",
        ],
    )?;
    let mut records = agent::wait_until_captures(&mut agent, &mut arrived)?;

    let nginx = Nginx::start(folder, NGINX_WORKERS)?;
    let starts = [redis::start, postgres::start, haproxy::start, go::start, node::start, java::start];
    let mut servers: Vec<Server> = starts.iter().map(|start| start(folder)).collect::<Result<_>>()?;
    eprintln!(
        "nginx and {} servers at a time: {connections} connections of each kind to each",
        servers.len()
    );
    let port = nginx.port();
    thread::scope(|scope| -> Result<()> {
        let mut loads: Vec<_> =
            servers.iter_mut().map(|server| scope.spawn(move || connect(server, connections))).collect();
        loads.push(scope.spawn(move || load::send(port, connections, NGINX_CLIENTS)));
        for load in loads {
            load.join().map_err(|_| anyhow!("a thread died"))??;
        }
        Ok(())
    })?;
    let nginx_log = nginx.wait_for_log(connections)?;
    let workers = compare::workers(&nginx_log)?;
    ensure!(workers.len() > 1, "only one of {NGINX_WORKERS} workers of nginx accepted anything");
    let mut answers = Vec::new();
    for server in servers {
        let kinds = 1 + usize::from(server.socket.is_some());
        let accepted = (server.accepted)(&server, connections * kinds)
            .with_context(|| format!("what {} accepted", server.name))?;
        let wanted = match &accepted {
            AcceptedByServer::Count(count) => *count,
            AcceptedByServer::Connections { ports, unix } => ports.len() + unix,
        };
        until(&format!("the records of {}", server.name), ARRIVAL, || {
            agent.require_alive()?;
            records.extend(arrived.read()?);
            Ok((accepts_of(&server, &records).len() >= wanted).then_some(()))
        })?;
        answers.push((server, accepted));
    }
    let descriptors = descriptors::measure(folder)?;
    let containers = containers::measure(folder, connections)?;
    until("the records of the containers and of nginx", ARRIVAL, || {
        records.extend(arrived.read()?);
        let have_arrived = containers.iter().all(|container| container.has_arrived(&records))
            && compare::nginx_records(&nginx_log, &records).len() >= nginx_log.len();
        Ok(have_arrived.then_some(()))
    })?;
    nginx.stop(STOP)?;
    let ledger = Ledger::from_log(&agent.stop(STOP)?)?;
    collector.process.stop(STOP)?;
    records.extend(arrived.read()?);

    ledger.check()?;
    compare::connections(&nginx_log, &records)?;
    compare::identities(&workers, &records)?;
    let mut figures = vec![ServerFigures { server: "nginx", tcp: nginx_log.len(), unix: 0 }];
    for (server, accepted) in &answers {
        figures.push(check(server, accepted, &records)?);
    }
    descriptors.check(&records)?;
    containers.iter().try_for_each(|container| container.check(&records))?;
    Ok(Measured { servers: figures, emfile: descriptors.emfile, containers: containers.len() })
}

/// Makes the connections one after the other, and waits for an answer to each.
fn connect(server: &mut Server, connections: usize) -> Result<()> {
    until(&format!("{} to listen", server.name), READY, || {
        server.process.require_alive()?;
        Ok(exchange(TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)), server.hello).ok())
    })?;
    for _ in 1..connections {
        exchange(TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)), server.hello)?;
    }
    if let Some(socket) = &server.socket {
        for _ in 0..connections {
            exchange(UnixStream::connect(socket), server.hello)?;
        }
    }
    Ok(())
}

/// The records of a server's accepts.
fn accepts_of<'a>(server: &Server, records: &'a [Record]) -> Vec<&'a Record> {
    let (port, socket) = (server.port.to_string(), server.socket.as_deref());
    let is_from_server = |record: &&Record| {
        let local = record.attribute("network.local.address");
        // HAProxy binds a temporary name, which begins with the configured one, and renames the file. The
        // kernel keeps the name that was bound.
        let over_unix = socket.is_some_and(|socket| local.starts_with(&*socket.to_string_lossy()));
        record.is_accept() && (over_unix || record.attribute("network.local.port") == port)
    };
    records.iter().filter(is_from_server).collect()
}

/// Compares the records of a server with what it says.
fn check(server: &Server, accepted: &AcceptedByServer, records: &[Record]) -> Result<ServerFigures> {
    let name = server.name;
    let records = accepts_of(server, records);
    let pid = (server.pid)(server).with_context(|| format!("the process id of {name}"))?.to_string();
    let unnamed = format!("unknown_service:{}", server.executable);
    let service = server.service.unwrap_or(&unnamed);
    for record in &records {
        let found =
            ["process.executable.name", "process.pid", "service.name"].map(|key| record.resource(key));
        let expected = [server.executable, &pid, service];
        ensure!(found == expected, "{name} is {expected:?}, and accepted as {found:?}: {}", record.body);
    }
    let is_unix = |record: &&&Record| record.attribute("network.transport") == "unix";
    let unix = records.iter().filter(is_unix).count();
    let tcp = records.len() - unix;
    match accepted {
        AcceptedByServer::Count(count) => {
            ensure!(
                *count == records.len(),
                "{name} says {count} connections, there are {} records",
                records.len()
            );
        }
        AcceptedByServer::Connections { ports, unix: said } => {
            ensure!(*said == unix, "{name} says {said} UNIX connections, there are {unix} records");
            let mut balance: BTreeMap<String, i64> = BTreeMap::new();
            for port in ports {
                *balance.entry(port.to_string()).or_default() += 1;
            }
            for record in records.iter().filter(|record| !is_unix(record)) {
                *balance.entry(record.attribute("network.peer.port").to_owned()).or_default() -= 1;
            }
            let differ: Vec<_> = balance.iter().filter(|(_, count)| **count != 0).take(5).collect();
            if !differ.is_empty() {
                bail!(
                    "{name}: clients' ports that are missing (1) or surplus (-1) in the records: {differ:?}"
                );
            }
        }
    }
    Ok(ServerFigures { server: name, tcp, unix })
}
