//! Redis in containers of Docker's engine, which says itself which container and which process is which.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{READY, ask};
use crate::command::{self, capture};
use crate::process::{Running, until};
use crate::records::Record;
use crate::{apt, host};

/// How long the engine may take to stop.
const STOP: Duration = Duration::from_secs(30);

/// Without anything: the host's programs are mounted into its containers.
const IMAGE: &str = "acceptd-e2e-nothing";

/// Two servers that are told apart by what they call their service.
const SERVICES: [Option<&str>; 2] = [Some("basket"), None];

pub(super) fn require() -> Result<()> {
    apt::require("dockerd", "--version", "docker.io")
}

/// An engine of its own, with nothing of the host's.
pub(in crate::e2e) struct Engine {
    process: Running,
    socket: PathBuf,
    exec_root: PathBuf,
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

/// Lets a server in each of two containers accept so many connections.
pub(super) fn measure(folder: &Path, connections: usize) -> Result<Vec<Served>> {
    let engine = Engine::start(&folder.join("docker"))?;
    let served: Vec<Served> =
        SERVICES.into_iter().map(|service| engine.serve(service, connections)).collect::<Result<_>>()?;
    engine.stop()?;
    Ok(served)
}

impl Engine {
    pub(in crate::e2e) fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let socket = folder.join("docker.sock");
        let exec_root = folder.join("exec");
        let mut dockerd = Command::new("dockerd");
        dockerd.arg("--data-root").arg(folder.join("data")).arg("--exec-root").arg(&exec_root);
        dockerd.arg("--pidfile").arg(folder.join("docker.pid"));
        dockerd.arg("--host").arg(format!("unix://{}", socket.display()));
        // It is to change nothing on the host's network, and its files have no other file system beneath them.
        dockerd.args(["--bridge=none", "--iptables=false", "--storage-driver=vfs"]);
        let process =
            Running::start("dockerd", dockerd, &folder.join("dockerd.out"), &folder.join("dockerd.err"))?;
        let mut engine = Self { process, socket, exec_root };
        until("Docker's engine", READY, || {
            engine.process.require_alive()?;
            let mut info = engine.docker(&["info"]);
            let status = info.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            Ok(status.success().then_some(()))
        })?;
        let nothing = folder.join("nothing.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&nothing).args(["--files-from", "/dev/null"]);
        command::run(tar)?;
        let mut import = engine.docker(&["import"]);
        import.arg(&nothing).arg(IMAGE);
        capture(import)?;
        Ok(engine)
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.arg("--host").arg(format!("unix://{}", self.socket.display())).args(arguments);
        docker
    }

    /// Ends it and its containers.
    pub(in crate::e2e) fn stop(self) -> Result<()> {
        let running = capture(self.docker(&["ps", "--quiet", "--no-trunc"]))?;
        for id in running.lines() {
            capture(self.docker(&["rm", "--force", id]))?;
        }
        self.process.stop(STOP)?;
        // It leaves one of the networks of its containers mounted.
        _ = Command::new("umount").arg(self.exec_root.join("netns/default")).status();
        Ok(())
    }

    /// A container whose server accepts so many connections.
    pub(in crate::e2e) fn serve(&self, service: Option<&'static str>, connections: usize) -> Result<Served> {
        let port = host::free_port()?;
        let mut run = self.docker(&["run", "--detach", "--network=host"]);
        for folder in
            ["/usr", "/lib", "/lib64", "/bin"].into_iter().filter(|folder| Path::new(folder).exists())
        {
            run.arg("--volume").arg(format!("{folder}:{folder}:ro"));
        }
        if let Some(service) = service {
            run.arg("--env").arg(format!("OTEL_SERVICE_NAME={service}"));
        }
        run.args([IMAGE, "/usr/bin/redis-server", "--bind", "127.0.0.1", "--port", &port.to_string()]);
        // Its title would be written over its environment, before the agent has read it or after.
        run.args(["--set-proc-title", "no"]);
        let id = capture(run)?.trim().to_owned();
        let pid = capture(self.docker(&["inspect", "--format", "{{.State.Pid}}", &id]))?.trim().to_owned();
        until("Redis in a container", READY, || Ok(ping(port).ok()))?;
        for _ in 1..connections {
            ping(port)?;
        }
        Ok(Served { id, pid, port, service, connections })
    }
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
