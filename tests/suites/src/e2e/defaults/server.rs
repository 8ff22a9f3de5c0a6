//! One server in a sandbox: how to reach it, and how to read what it says it accepted.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::facts::{Report, Service};
use crate::{
    e2e::{
        clients::{self, Answer},
        deadlines::ARRIVAL,
        sandbox::Sandbox,
    },
    process::{Running, until},
};

/// A server that runs.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) process: Running,
    pub(super) port: u16,
    /// How many connections to make, if this many are wanted of each server.
    pub(super) connections: fn(usize) -> usize,
    /// How many clients connect at a time.
    pub(super) clients: usize,
    /// The names of the executables that may accept.
    pub(super) executables: &'static [&'static str],
    /// The names of the executables that may own the listener.
    pub(super) owners: &'static [&'static str],
    /// Whether the processes that accept have the `OTEL_SERVICE_NAME` with which the server was started.
    pub(super) keeps_environment: bool,
    /// Whether a process that accepted ends with its connection.
    pub(super) is_short_lived: bool,
    /// The bytes that a client sends to get an answer.
    pub(super) hello: &'static [u8],
    pub(super) answer: Answer,
    /// The file to which it logs what it accepted.
    pub(super) log: PathBuf,
    /// Finds the connection that a line of that file is about.
    pub(super) accepted: fn(&str) -> Option<Logged>,
}

/// A connection in a server's log.
pub(super) enum Logged {
    /// Of the client with this port.
    Port(u16),
    /// Of a client that the line does not name.
    Unnamed,
}

/// A request that closes its connection.
pub(super) const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The `OTEL_SERVICE_NAME` with which a server is started.
pub(super) fn service(name: &str) -> String {
    format!("shop-{}", name.to_lowercase().replace(", ", "-").replace(' ', "-"))
}

/// Starts a server in the sandbox. Both outputs go to files in `folder`; returns the process and the two
/// paths.
pub(super) fn start(
    name: &'static str,
    mut command: Command,
    folder: &std::path::Path,
) -> Result<(Running, PathBuf, PathBuf)> {
    command.env("OTEL_SERVICE_NAME", service(name));
    let file = |end: &str| folder.join(format!("{}.{end}", service(name)));
    let (out, err) = (file("out"), file("err"));
    Ok((Running::start(name, command, &out, &err)?, out, err))
}

/// `accepted PORT`, as the small programs of this suite log it.
fn accepted_port(line: &str) -> Option<Logged> {
    line.strip_prefix("accepted ")?.parse().ok().map(Logged::Port)
}

impl Server {
    /// An HTTP server on port 8000 that logs as [`accepted_port`] reads it, and whose listener belongs to
    /// those who accept on it: `executables`, which keep the environment.
    pub(super) fn new(
        name: &'static str,
        process: Running,
        log: PathBuf,
        executables: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            process,
            port: 8_000,
            connections: |wanted| wanted,
            clients: 8,
            executables,
            owners: executables,
            keeps_environment: true,
            is_short_lived: false,
            hello: HTTP,
            answer: Answer::Whole,
            log,
            accepted: accepted_port,
        }
    }

    /// The right `service.name` of its processes.
    pub(super) fn naming(&self) -> Service {
        if self.keeps_environment { Service::Named(service(self.name)) } else { Service::Unnamed }
    }

    /// Makes these connections, and returns what the server says it accepted.
    pub(super) fn serve(&self, sandbox: &Sandbox, connections: usize) -> Result<Report> {
        sandbox.enter(|| clients::connect(self.port, self.hello, self.answer, self.clients, connections))?;
        let report = until("every connection in the server's log", ARRIVAL, || {
            let report = self.report()?;
            Ok((report.count() >= connections).then_some(report))
        });
        // A log with fewer lines is for the judgement.
        report.or_else(|_| self.report())
    }

    fn report(&self) -> Result<Report> {
        let bytes = fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let (mut ports, mut unnamed) = (Vec::new(), 0);
        for logged in text.lines().filter_map(self.accepted) {
            match logged {
                Logged::Port(port) => ports.push(port),
                Logged::Unnamed => unnamed += 1,
            }
        }
        Ok(if ports.is_empty() { Report::Count(unnamed) } else { Report::Ports(ports) })
    }
}
