//! Servers at the same time, each of which says itself what it accepted and who it is: nginx, Redis, PostgreSQL, HAProxy, Go, Node
//! and Java, over TCP and, where they have them, UNIX sockets; a server that runs out of descriptors, which strace watches;
//! and servers in containers.

pub(super) mod containers;
mod descriptors;
mod go;
mod haproxy;
mod java;
mod node;
mod postgres;
mod redis;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{ARRIVAL, STOP, compare, load, nginx::Nginx};
use crate::{
    agent, collector,
    ledger::Ledger,
    process::{Running, until},
    records::{Record, Tail},
};

const READY: Duration = Duration::from_secs(30);
const NGINX_WORKERS: usize = 4;
const NGINX_CLIENTS: usize = 8;

/// A server that runs.
struct Server {
    name: &'static str,
    /// Of its accepting process.
    executable: &'static str,
    process: Running,
    port: u16,
    /// Its UNIX socket, if it has one.
    socket: Option<PathBuf>,
    /// What a client says to get an answer.
    hello: &'static [u8],
    /// Asks it what it accepted, once it has accepted so many connections.
    word: fn(&Server, usize) -> Result<Word>,
    /// What its own word is for its process.
    pid: fn(&Server) -> Result<u32>,
    /// What it calls its service.
    service: Option<&'static str>,
    /// Where it writes what it accepted.
    log: PathBuf,
}

/// A server of ours: its word is a line `accepted PID PORT|unix` for each accept that returned.
struct Logging {
    name: &'static str,
    executable: &'static str,
    port: u16,
    socket: PathBuf,
    service: Option<&'static str>,
}

impl Logging {
    fn start(self, command: Command, folder: &Path) -> Result<Server> {
        let Self { name, executable, port, socket, service } = self;
        let log = folder.join(format!("{name}.out"));
        let process = Running::start(name, command, &log, &folder.join(format!("{name}.err")))?;
        let word = |server: &Server, accepted| {
            connections(&server.log, accepted, |line| line.strip_prefix("accepted ")?.split(' ').nth(1))
        };
        let socket = Some(socket);
        Ok(Server {
            name,
            executable,
            process,
            port,
            socket,
            hello: b"",
            word,
            pid: pid_in_log,
            service,
            log,
        })
    }
}

/// What a server says that it accepted.
enum Word {
    /// How many connections in all, that of the question among them.
    Count(usize),
    /// The clients' ports, and how many connections over the UNIX socket.
    Connections { ports: Vec<u16>, unix: usize },
}

/// Figures of one server.
pub(crate) struct Accepted {
    pub(crate) server: &'static str,
    pub(crate) tcp: usize,
    pub(crate) unix: usize,
}

/// Figures of a run in which everything was equal.
pub(crate) struct Measured {
    pub(crate) servers: Vec<Accepted>,
    /// Failed accepts of the server without descriptors.
    pub(crate) emfile: u64,
    /// Containers that served.
    pub(crate) containers: usize,
}

/// Installs what is missing.
pub(crate) fn require() -> Result<()> {
    redis::require()?;
    postgres::require()?;
    haproxy::require()?;
    node::require()?;
    java::require()?;
    containers::require()?;
    descriptors::require()
}

/// Lets each server accept so many connections of each kind, and compares.
pub(crate) fn measure(
    agent_binary: &Path,
    collector_binary: &Path,
    folder: &Path,
    connections: usize,
) -> Result<Measured> {
    let sink = collector::start(collector_binary, folder)?;
    let mut arrived = Tail::new(sink.file.clone());
    let mut agent = agent::start_with(
        agent_binary,
        folder,
        // nginx's records come over gRPC; these the other way.
        sink.http_port,
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
    let of_nginx = nginx.wait_for_log(connections)?;
    let workers = compare::workers(&of_nginx)?;
    ensure!(workers.len() > 1, "only one of {NGINX_WORKERS} workers of nginx accepted anything");
    let mut said = Vec::new();
    for server in servers {
        let kinds = 1 + usize::from(server.socket.is_some());
        let word = (server.word)(&server, connections * kinds)
            .with_context(|| format!("the word of {}", server.name))?;
        let wanted = match &word {
            Word::Count(count) => *count,
            Word::Connections { ports, unix } => ports.len() + unix,
        };
        until(&format!("the records of {}", server.name), ARRIVAL, || {
            agent.require_alive()?;
            records.extend(arrived.read()?);
            Ok((of(&server, &records).len() >= wanted).then_some(()))
        })?;
        said.push((server, word));
    }
    let descriptors = descriptors::measure(folder)?;
    let containers = containers::measure(folder, connections)?;
    until("the records of the containers and of nginx", ARRIVAL, || {
        records.extend(arrived.read()?);
        let have_arrived = containers.iter().all(|container| container.arrived(&records))
            && compare::of_nginx(&of_nginx, &records).len() >= of_nginx.len();
        Ok(have_arrived.then_some(()))
    })?;
    nginx.stop(STOP)?;
    let ledger = Ledger::from_log(&agent.stop(STOP)?)?;
    sink.process.stop(STOP)?;
    records.extend(arrived.read()?);

    ledger.check()?;
    compare::connections(&of_nginx, &records)?;
    compare::identities(&workers, &records)?;
    let mut accepted = vec![Accepted { server: "nginx", tcp: of_nginx.len(), unix: 0 }];
    for (server, word) in &said {
        accepted.push(judge(server, word, &records)?);
    }
    descriptors.check(&records)?;
    containers.iter().try_for_each(|container| container.check(&records))?;
    Ok(Measured { servers: accepted, emfile: descriptors.emfile, containers: containers.len() })
}

/// One connection after the other, and an answer to each.
fn connect(server: &mut Server, connections: usize) -> Result<()> {
    until(&format!("{} to listen", server.name), READY, || {
        server.process.require_alive()?;
        Ok(ask(TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)), server.hello).ok())
    })?;
    for _ in 1..connections {
        ask(TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)), server.hello)?;
    }
    if let Some(socket) = &server.socket {
        for _ in 0..connections {
            ask(UnixStream::connect(socket), server.hello)?;
        }
    }
    Ok(())
}

fn ask(stream: std::io::Result<impl Read + Write>, hello: &[u8]) -> Result<()> {
    let mut stream = stream?;
    stream.write_all(hello)?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).context("no answer")
}

/// The accepts of a server.
fn of<'a>(server: &Server, records: &'a [Record]) -> Vec<&'a Record> {
    let (port, socket) = (server.port.to_string(), server.socket.as_deref());
    let is_of = |record: &&Record| {
        let local = record.attribute("network.local.address");
        // HAProxy binds another name, which begins like this, and renames the file: the kernel keeps the first.
        let over_unix = socket.is_some_and(|socket| local.starts_with(&*socket.to_string_lossy()));
        record.is_accept() && (over_unix || record.attribute("network.local.port") == port)
    };
    records.iter().filter(is_of).collect()
}

fn judge(server: &Server, word: &Word, records: &[Record]) -> Result<Accepted> {
    let name = server.name;
    let records = of(server, records);
    let pid = (server.pid)(server).with_context(|| format!("the process id of {name}"))?.to_string();
    let nameless = format!("unknown_service:{}", server.executable);
    let service = server.service.unwrap_or(&nameless);
    for record in &records {
        let found =
            ["process.executable.name", "process.pid", "service.name"].map(|key| record.resource(key));
        let expected = [server.executable, &pid, service];
        ensure!(found == expected, "{name} is {expected:?}, and accepted as {found:?}: {}", record.body);
    }
    let is_unix = |record: &&&Record| record.attribute("network.transport") == "unix";
    let unix = records.iter().filter(is_unix).count();
    let tcp = records.len() - unix;
    match word {
        Word::Count(count) => {
            ensure!(
                *count == records.len(),
                "{name} says {count} connections, there are {} records",
                records.len()
            );
        }
        Word::Connections { ports, unix: said } => {
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
                bail!("{name}: clients' ports that are missing (1) or extra (-1) in the records: {differ:?}");
            }
        }
    }
    Ok(Accepted { server: name, tcp, unix })
}

/// `accepted PID …`, on each line of the log that says so.
fn pid_in_log(server: &Server) -> Result<u32> {
    let text = fs::read_to_string(&server.log)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("accepted ")?.split(' ').next());
    pid.context("no accept in the log")?.parse().context("a process id")
}

/// Lines of a log that a server writes: the last of each is what `port` finds, a port or `unix`.
fn connections(log: &Path, wanted: usize, port: impl Fn(&str) -> Option<&str>) -> Result<Word> {
    until("every connection in the log", ARRIVAL, || {
        let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
        let (mut ports, mut unix) = (Vec::new(), 0);
        for found in text.lines().filter_map(&port) {
            match found.parse() {
                Ok(port) => ports.push(port),
                Err(_) => unix += 1,
            }
        }
        Ok((ports.len() + unix >= wanted).then_some(Word::Connections { ports, unix }))
    })
}
