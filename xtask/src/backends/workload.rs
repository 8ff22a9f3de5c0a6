//! The demo's servers and clients on this host, and what the servers say that they accepted: the truth that answers are held against.

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
/// A descriptor of each of its connections, its listener's, and the three that every process has.
const DESCRIPTORS: &str = "16";
/// How many ports the scanner finds open.
pub(super) const PORTS: u16 = 20;

/// It runs.
pub(super) struct Workload {
    pub(super) began: Timestamp,
    /// Who connects to the servers.
    others: Vec<Running>,
    pub(super) fast: Server,
    pub(super) slow: Server,
    pub(super) crowded: Server,
    pub(super) exhausted: Server,
    pub(super) unix: Server,
    /// The process that connects to all of them.
    pub(super) clients: u32,
}

/// A server, as it knows itself.
pub(super) struct Server {
    process: Running,
    /// Of its service.
    pub(super) name: &'static str,
    pub(super) pid: u32,
    /// Its first.
    pub(super) port: u16,
    /// Where it listens, without ports.
    pub(super) path: Option<PathBuf>,
    log: PathBuf,
}

impl Workload {
    pub(super) fn start(program: &Path, folder: &Path) -> Result<Self> {
        let began = Timestamp::now();
        // Only one of them is to run out of descriptors.
        let start = |name: &'static str, port: u16, flags: &[&str]| {
            let limit = if name == "exhausted" { DESCRIPTORS } else { "1024" };
            let mut server = Command::new("sh");
            server.args(["-c", "ulimit -n $0 && exec \"$@\"", limit]).arg(program).arg(name).args(flags);
            Server::start(name, server, port, folder)
        };
        let first = free_ports()?;
        let fast = start("fast", first, &[&format!("127.0.0.1:{first}"), "--ports", &PORTS.to_string()])?;
        let on_a_port = |name| {
            let port = host::free_port()?;
            start(name, port, &[&format!("127.0.0.1:{port}")])
        };
        let (slow, crowded, exhausted) = (on_a_port("slow")?, on_a_port("crowded")?, on_a_port("exhausted")?);
        let path = folder.join("unix.sock");
        let mut unix = start("unix", 0, &[&path.display().to_string()])?;
        unix.path = Some(path.clone());
        let mut clients = Command::new(program);
        clients.arg("clients").arg(format!("--unix={}", path.display()));
        for server in [&fast, &slow, &crowded, &exhausted] {
            clients.arg(format!("--{}=127.0.0.1:{}", server.name, server.port));
        }
        let mut scanner = Command::new(program);
        scanner.args(["scanner", "127.0.0.1", "--first", &first.to_string(), "--last"]);
        scanner.arg((first + PORTS - 1).to_string());
        let running = run("clients", clients, folder)?;
        let clients = running.pid();
        let others = vec![running, run("scanner", scanner, folder)?];
        Ok(Self { began, others, fast, slow, crowded, exhausted, unix, clients })
    }

    /// Fails once one of them has ended.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        self.others.iter_mut().try_for_each(Running::require_alive)?;
        let servers =
            [&mut self.fast, &mut self.slow, &mut self.crowded, &mut self.exhausted, &mut self.unix];
        servers.into_iter().try_for_each(|server| server.process.require_alive())
    }
}

/// Starts a program, its outputs in the folder by its name.
pub(super) fn run(name: &'static str, command: Command, folder: &Path) -> Result<Running> {
    Running::start(name, command, &folder.join(format!("{name}.out")), &folder.join(format!("{name}.err")))
}

impl Server {
    /// As the service `name`; waits until it listens on its port, if it has one.
    pub(super) fn start(name: &'static str, mut command: Command, port: u16, folder: &Path) -> Result<Self> {
        command.env("OTEL_SERVICE_NAME", name);
        let mut process = run(name, command, folder)?;
        let pid = process.pid();
        until(&format!("{name} to listen"), READY, || {
            process.require_alive()?;
            Ok((port == 0 || host::listens(pid, port)?).then_some(()))
        })?;
        Ok(Self { process, name, pid, port, path: None, log: folder.join(format!("{name}.out")) })
    }

    /// Peers of the connections that it has accepted so far.
    pub(super) fn peers(&self) -> Result<Vec<SocketAddr>> {
        let text =
            fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let mut peers = Vec::new();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let mut words = line.strip_prefix("accepted ").with_context(|| line.to_owned())?.split(' ');
            let pid = words.next().and_then(|pid| pid.parse::<u32>().ok());
            if pid != Some(self.pid) {
                bail!("{} says {line:?}, and is {}", self.name, self.pid);
            }
            peers.push(words.nth(1).and_then(|peer| peer.parse().ok()).with_context(|| line.to_owned())?);
        }
        Ok(peers)
    }
}

/// The first of so many free ports in a row. From above, since the kernel's own choices for clients (`ip_local_port_range`) end at 60999:
/// of those, a suite with many connections leaves one in two in `TIME_WAIT`.
fn free_ports() -> Result<u16> {
    let row = |first: &u16| (*first..*first + PORTS).all(host::is_free);
    (1024..=u16::MAX - PORTS)
        .rev()
        .step_by(PORTS.into())
        .find(row)
        .with_context(|| format!("there are no {PORTS} free ports in a row on 127.0.0.1"))
}
