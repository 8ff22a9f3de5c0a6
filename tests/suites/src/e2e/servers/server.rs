//! One server under test: how to reach it, and how to ask it what it accepted.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    e2e::deadlines::ARRIVAL,
    process::{Running, until},
};

/// A running server.
pub(super) struct Server {
    pub(super) name: &'static str,
    /// The name of the executable of the process that accepts.
    pub(super) executable: &'static str,
    pub(super) process: Running,
    pub(super) port: u16,
    /// Its UNIX socket, if it has one.
    pub(super) socket: Option<PathBuf>,
    /// The bytes that a client sends to get an answer.
    pub(super) hello: &'static [u8],
    /// Asks the server what it accepted, once it has accepted this many connections.
    pub(super) accepted: fn(&Server, usize) -> Result<AcceptedByServer>,
    /// Asks the server for the process id of the process that accepts.
    pub(super) pid: fn(&Server) -> Result<u32>,
    /// The `OTEL_SERVICE_NAME` in its environment, if any.
    pub(super) service: Option<&'static str>,
    /// The file to which it logs what it accepted.
    pub(super) log: PathBuf,
}

/// The connections that a server says it accepted.
pub(super) enum AcceptedByServer {
    /// How many connections in all, including the one of the question.
    Count(usize),
    /// The clients' ports, and how many connections over the UNIX socket.
    Connections { ports: Vec<u16>, unix: usize },
}

/// A small server of this suite, which logs a line `accepted PID PORT|unix` for each accept that returned.
pub(super) struct LoggingServer {
    pub(super) name: &'static str,
    pub(super) executable: &'static str,
    pub(super) port: u16,
    pub(super) socket: PathBuf,
    pub(super) service: Option<&'static str>,
}

impl LoggingServer {
    pub(super) fn start(self, command: Command, folder: &Path) -> Result<Server> {
        let Self { name, executable, port, socket, service } = self;
        let log = folder.join(format!("{name}.out"));
        let process = Running::start(name, command, &log, &folder.join(format!("{name}.err")))?;
        let accepted = |server: &Server, accepted| {
            connections_in_log(&server.log, accepted, |line| {
                line.strip_prefix("accepted ")?.split(' ').nth(1)
            })
        };
        Ok(Server {
            name,
            executable,
            process,
            port,
            socket: Some(socket),
            hello: b"",
            accepted,
            pid: pid_in_log,
            service,
            log,
        })
    }
}

/// Sends `hello` and reads one byte.
pub(super) fn exchange(stream: std::io::Result<impl Read + Write>, hello: &[u8]) -> Result<()> {
    let mut stream = stream?;
    stream.write_all(hello)?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).context("no answer")
}

/// The process id in the first line `accepted PID …` of a log.
pub(super) fn pid_in_log(server: &Server) -> Result<u32> {
    let text = fs::read_to_string(&server.log)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("accepted ")?.split(' ').next());
    pid.context("no accept in the log")?.parse().context("a process id")
}

/// Waits until a log has `wanted` connections. `port` finds the client in a line: a port, or another word for
/// a client over the UNIX socket.
pub(super) fn connections_in_log(
    log: &Path,
    wanted: usize,
    port: impl Fn(&str) -> Option<&str>,
) -> Result<AcceptedByServer> {
    until("every connection in the log", ARRIVAL, || {
        let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
        let (mut ports, mut unix) = (Vec::new(), 0);
        for found in text.lines().filter_map(&port) {
            match found.parse() {
                Ok(port) => ports.push(port),
                Err(_) => unix += 1,
            }
        }
        let is_complete = ports.len() + unix >= wanted;
        Ok(is_complete.then_some(AcceptedByServer::Connections { ports, unix }))
    })
}
