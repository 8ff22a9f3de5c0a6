//! Runs the demo's servers and clients on this host, and reads the peers of accepted connections from the
//! servers' logs, with which the answers of the backends are compared.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use crate::{
    host,
    process::{Running, until},
};

const READY: Duration = Duration::from_secs(10);
/// The descriptor limit of the server `exhausted`: three standard streams, its listener, and some
/// connections.
const DESCRIPTORS: &str = "16";
/// How many consecutive ports the server `fast` listens on, and the scanner connects to.
pub(super) const PORTS: u16 = 20;

/// The running workload.
pub(super) struct Workload {
    pub(super) started: Timestamp,
    /// The clients and the scanner, which connect to the servers.
    connecting: Vec<Running>,
    pub(super) fast: WorkloadServer,
    pub(super) slow: WorkloadServer,
    pub(super) crowded: WorkloadServer,
    pub(super) exhausted: WorkloadServer,
    pub(super) unix: WorkloadServer,
    /// The process id of the program that connects to all servers.
    pub(super) clients: u32,
}

/// A running server of the workload.
pub(super) struct WorkloadServer {
    process: Running,
    /// The name of its service.
    pub(super) name: &'static str,
    pub(super) pid: u32,
    /// The first port that the server listens on; 0 if it has a UNIX socket.
    pub(super) port: u16,
    /// The path of the UNIX socket of a server without a port.
    pub(super) path: Option<PathBuf>,
    log: PathBuf,
}

impl Workload {
    /// Starts all servers, then the clients and the scanner. Their output goes to files in `folder`.
    pub(super) fn start(program: &Path, folder: &Path) -> Result<Self> {
        let started = Timestamp::now();
        // Only the server `exhausted` must run out of descriptors.
        let start_server = |name: &'static str, port: u16, flags: &[&str]| {
            let limit = if name == "exhausted" { DESCRIPTORS } else { "1024" };
            let mut server = Command::new("sh");
            server.args(["-c", "ulimit -n $0 && exec \"$@\"", limit]).arg(program).arg(name).args(flags);
            WorkloadServer::start(name, server, port, folder)
        };
        let first = free_ports()?;
        let fast =
            start_server("fast", first, &[&format!("127.0.0.1:{first}"), "--ports", &PORTS.to_string()])?;
        let start_on_free_port = |name| {
            let port = host::free_port()?;
            start_server(name, port, &[&format!("127.0.0.1:{port}")])
        };
        let (slow, crowded, exhausted) =
            (start_on_free_port("slow")?, start_on_free_port("crowded")?, start_on_free_port("exhausted")?);
        let path = folder.join("unix.sock");
        let mut unix = start_server("unix", 0, &[&path.display().to_string()])?;
        unix.path = Some(path.clone());
        let mut clients = Command::new(program);
        clients.arg("clients").arg(format!("--unix={}", path.display()));
        for server in [&fast, &slow, &crowded, &exhausted] {
            clients.arg(format!("--{}=127.0.0.1:{}", server.name, server.port));
        }
        let mut scanner = Command::new(program);
        scanner.args(["scanner", "127.0.0.1", "--first", &first.to_string(), "--last"]);
        scanner.arg((first + PORTS - 1).to_string());
        let running = start_program("clients", clients, folder)?;
        let clients = running.pid();
        let connecting = vec![running, start_program("scanner", scanner, folder)?];
        Ok(Self { started, connecting, fast, slow, crowded, exhausted, unix, clients })
    }

    /// Fails if one of the programs has exited.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        self.connecting.iter_mut().try_for_each(Running::require_alive)?;
        let servers =
            [&mut self.fast, &mut self.slow, &mut self.crowded, &mut self.exhausted, &mut self.unix];
        servers.into_iter().try_for_each(|server| server.process.require_alive())
    }
}

/// Starts a program whose output goes to the files NAME.out and NAME.err in `folder`.
pub(super) fn start_program(name: &'static str, command: Command, folder: &Path) -> Result<Running> {
    Running::start(name, command, &folder.join(format!("{name}.out")), &folder.join(format!("{name}.err")))
}

impl WorkloadServer {
    /// Starts a server with the service name `name`, and waits until it listens on `port`, unless that is 0.
    pub(super) fn start(name: &'static str, mut command: Command, port: u16, folder: &Path) -> Result<Self> {
        command.env("OTEL_SERVICE_NAME", name);
        let mut process = start_program(name, command, folder)?;
        let pid = process.pid();
        until(&format!("{name} to listen"), READY, || {
            process.require_alive()?;
            Ok((port == 0 || host::listens(pid, port)?).then_some(()))
        })?;
        Ok(Self { process, name, pid, port, path: None, log: folder.join(format!("{name}.out")) })
    }

    /// The peers of the connections that the server has accepted so far, by its log.
    pub(super) fn peers(&self) -> Result<Vec<SocketAddr>> {
        let text =
            fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let mut peers = Vec::new();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let mut words = line.strip_prefix("accepted ").with_context(|| line.to_owned())?.split(' ');
            let pid = words.next().and_then(|pid| pid.parse::<u32>().ok());
            if pid != Some(self.pid) {
                bail!("{} logged {line:?}, and its process is {}", self.name, self.pid);
            }
            peers.push(words.nth(1).and_then(|peer| peer.parse().ok()).with_context(|| line.to_owned())?);
        }
        Ok(peers)
    }
}

/// The first of [`PORTS`] consecutive free ports, searched from the highest port down. The ports that the
/// kernel assigns to clients (`ip_local_port_range`) end at 60999, and many connections leave up to half of
/// those in `TIME_WAIT`.
fn free_ports() -> Result<u16> {
    let are_free = |first: &u16| (*first..*first + PORTS).all(host::is_free);
    (1024..=u16::MAX - PORTS)
        .rev()
        .step_by(PORTS.into())
        .find(are_free)
        .with_context(|| format!("there are no {PORTS} free ports in a row on 127.0.0.1"))
}
