//! Redis in containers. Docker's engine says which container and which process each server is.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::Path,
};

use anyhow::{Result, ensure};
use xtask_support::command::capture;

use super::server::exchange;
use crate::{docker::Engine, e2e::deadlines::READY, host, process::until, records::Record};

/// An empty image: the host's programs are mounted into its containers.
const IMAGE: &str = "acceptd-e2e-nothing";

/// The `OTEL_SERVICE_NAME` of each server.
const SERVICES: [Option<&str>; 2] = [Some("basket"), None];

/// A container whose server accepted connections.
pub(crate) struct Container {
    pub(crate) id: String,
    /// The process id of its first process, on the host.
    pid: String,
    port: u16,
    service: Option<&'static str>,
    connections: usize,
}

/// Starts an engine that has the empty image.
pub(crate) fn start_engine(folder: &Path) -> Result<Engine> {
    let engine = Engine::start(&folder.join("docker"), false)?;
    let nothing = folder.join("nothing");
    std::fs::create_dir(&nothing)?;
    engine.import(&nothing, &[], IMAGE)?;
    Ok(engine)
}

/// Lets a server in each of two containers accept this many connections.
pub(super) fn measure(folder: &Path, connections: usize) -> Result<Vec<Container>> {
    let engine = start_engine(folder)?;
    let containers: Vec<Container> =
        SERVICES.into_iter().map(|service| serve(&engine, service, connections)).collect::<Result<_>>()?;
    engine.stop()?;
    Ok(containers)
}

/// Starts a container, and lets its server accept this many connections.
pub(crate) fn serve(engine: &Engine, service: Option<&'static str>, connections: usize) -> Result<Container> {
    let port = host::free_port()?;
    let mut run = engine.docker(&["run", "--detach", "--network=host"]);
    for folder in ["/usr", "/lib", "/lib64", "/bin"].into_iter().filter(|folder| Path::new(folder).exists()) {
        run.arg("--volume").arg(format!("{folder}:{folder}:ro"));
    }
    if let Some(service) = service {
        run.arg("--env").arg(format!("OTEL_SERVICE_NAME={service}"));
    }
    run.args([IMAGE, "/usr/bin/redis-server", "--bind", "127.0.0.1", "--port", &port.to_string()]);
    // Redis would write its title over its environment, before or after the agent reads that.
    run.args(["--set-proc-title", "no"]);
    let id = capture(run)?.trim().to_owned();
    let pid = capture(engine.docker(&["inspect", "--format", "{{.State.Pid}}", &id]))?.trim().to_owned();
    until("Redis in a container", READY, || Ok(ping(port).ok()))?;
    for _ in 1..connections {
        ping(port)?;
    }
    Ok(Container { id, pid, port, service, connections })
}

fn ping(port: u16) -> Result<()> {
    exchange(TcpStream::connect((Ipv4Addr::LOCALHOST, port)), b"PING\r\n")
}

impl Container {
    /// Makes one more connection.
    pub(crate) fn ping(&self) -> Result<()> {
        ping(self.port)
    }

    /// The records of the container's accepts.
    pub(crate) fn accepts<'a>(&self, records: &'a [Record]) -> Vec<&'a Record> {
        let port = self.port.to_string();
        let is_own = |record: &&Record| record.is_accept() && record.attribute("network.local.port") == port;
        records.iter().filter(is_own).collect()
    }

    /// Whether as many records arrived as there were connections.
    pub(super) fn has_arrived(&self, records: &[Record]) -> bool {
        self.accepts(records).len() >= self.connections
    }

    /// Checks that each record names the container and its process.
    pub(super) fn check(&self, records: &[Record]) -> Result<()> {
        let records = self.accepts(records);
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
