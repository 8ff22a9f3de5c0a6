//! Redis in containers of Docker's engine, which says itself which container and which process is which.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::Path,
};

use anyhow::{Result, ensure};

use super::{READY, ask};
use crate::{apt, command::capture, docker::Engine, host, process::until, records::Record};

/// Without anything: the host's programs are mounted into its containers.
const IMAGE: &str = "acceptd-e2e-nothing";

/// Two servers that are told apart by what they call their service.
const SERVICES: [Option<&str>; 2] = [Some("basket"), None];

pub(super) fn require() -> Result<()> {
    apt::require("dockerd", "--version", "docker.io")
}

/// A container that served.
pub(in crate::e2e) struct Served {
    pub(in crate::e2e) id: String,
    /// Of its first process, as the host knows it.
    pid: String,
    port: u16,
    service: Option<&'static str>,
    connections: usize,
}

/// An engine with an image of nothing.
pub(in crate::e2e) fn start(folder: &Path) -> Result<Engine> {
    let engine = Engine::start(&folder.join("docker"), false)?;
    let nothing = folder.join("nothing");
    std::fs::create_dir(&nothing)?;
    engine.import(&nothing, &[], IMAGE)?;
    Ok(engine)
}

/// Lets a server in each of two containers accept so many connections.
pub(super) fn measure(folder: &Path, connections: usize) -> Result<Vec<Served>> {
    let engine = start(folder)?;
    let served: Vec<Served> =
        SERVICES.into_iter().map(|service| serve(&engine, service, connections)).collect::<Result<_>>()?;
    engine.stop()?;
    Ok(served)
}

/// A container whose server accepts so many connections.
pub(in crate::e2e) fn serve(
    engine: &Engine,
    service: Option<&'static str>,
    connections: usize,
) -> Result<Served> {
    let port = host::free_port()?;
    let mut run = engine.docker(&["run", "--detach", "--network=host"]);
    for folder in ["/usr", "/lib", "/lib64", "/bin"].into_iter().filter(|folder| Path::new(folder).exists()) {
        run.arg("--volume").arg(format!("{folder}:{folder}:ro"));
    }
    if let Some(service) = service {
        run.arg("--env").arg(format!("OTEL_SERVICE_NAME={service}"));
    }
    run.args([IMAGE, "/usr/bin/redis-server", "--bind", "127.0.0.1", "--port", &port.to_string()]);
    // Its title would be written over its environment, before the agent has read it or after.
    run.args(["--set-proc-title", "no"]);
    let id = capture(run)?.trim().to_owned();
    let pid = capture(engine.docker(&["inspect", "--format", "{{.State.Pid}}", &id]))?.trim().to_owned();
    until("Redis in a container", READY, || Ok(ping(port).ok()))?;
    for _ in 1..connections {
        ping(port)?;
    }
    Ok(Served { id, pid, port, service, connections })
}

fn ping(port: u16) -> Result<()> {
    ask(TcpStream::connect((Ipv4Addr::LOCALHOST, port)), b"PING\r\n")
}

impl Served {
    /// One more connection.
    pub(in crate::e2e) fn ping(&self) -> Result<()> {
        ping(self.port)
    }

    /// Accepts of the container.
    pub(in crate::e2e) fn records<'a>(&self, records: &'a [Record]) -> Vec<&'a Record> {
        let port = self.port.to_string();
        let is_of = |record: &&Record| record.is_accept() && record.attribute("network.local.port") == port;
        records.iter().filter(is_of).collect()
    }

    /// Whether as many records arrived as there were connections.
    pub(super) fn arrived(&self, records: &[Record]) -> bool {
        self.records(records).len() >= self.connections
    }

    /// Each record is of the container and of its process.
    pub(super) fn check(&self, records: &[Record]) -> Result<()> {
        let records = self.records(records);
        ensure!(
            records.len() == self.connections,
            "{} connections to a container, and {} records",
            self.connections,
            records.len()
        );
        let expected = [&self.id, &self.pid, self.service.unwrap_or("unknown_service:redis-check-rdb"), ""];
        for record in records {
            let found = ["container.id", "process.pid", "service.name", "process.owner"];
            let found = found.map(|key| record.resource(key));
            ensure!(found == expected, "the engine says {expected:?}, the record {found:?}: {}", record.body);
        }
        Ok(())
    }
}
