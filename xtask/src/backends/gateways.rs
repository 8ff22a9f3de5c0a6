//! The topology of otel-config/gateway: two agents, each of one network namespace; a Collector of each, with its queue on disk; two
//! gateways, one after the other killed and started again on its volume; Elasticsearch. It has what the agents made, each once.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    crowd::{Crowd, Plan},
    kept,
    made::Made,
    stack::{
        Behind, STOP, {self},
    },
    workload::Server,
};
use crate::{
    agent, apt, collector, host, http,
    ledger::Ledger,
    process::{Running, until},
    workspace::Workspace,
};

const HOSTS: [&str; 2] = ["gateways-one", "gateways-two"];
/// Each host's Collector sends to one of them, by a hash of both names: by these ports and addresses not to the same.
const GATEWAYS: [&str; 2] = ["127.0.1.1", "127.0.1.2"];
const PORT: u16 = 14317;
/// The hosts' Collectors find both under this name.
const NAME: &str = "gateways.test";

/// Of the clients of each host.
const PLAN: Plan = Plan { rate: 200, seconds: 45, addresses: 200 };
/// When each gateway is killed, after the clients began, and for how long it is away then.
const KILLS: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(22)];
const AWAY: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_mins(3);

/// A gateway, which may run.
struct Gateway {
    binary: PathBuf,
    config: String,
    folder: PathBuf,
    address: String,
    backend: u16,
    runs: u32,
    /// Where it says what it received.
    metrics: u16,
}

/// One host: its network, with a server and its clients; its agent; the agent's Collector.
struct Host {
    server: Server,
    clients: Crowd,
    agent: Running,
    records: PathBuf,
}

/// Runs it, and returns what there is to say.
pub(super) fn run(
    workspace: &Workspace,
    programs: &Path,
    folder: &Path,
    behind: &mut Behind,
) -> Result<String> {
    apt::require("ip", "-V", "iproute2")?;
    let refused_before = kept::refused_by_elasticsearch(behind.backends["elasticsearch"].port)?;
    let binary = collector::build_contrib(workspace)?;
    let mut gateways = Vec::new();
    for address in GATEWAYS {
        let mut gateway = Gateway {
            binary: binary.clone(),
            config: stack::config(workspace, "gateway/gateway.yaml")?,
            folder: stack::made(folder.join(address))?,
            address: format!("{address}:{PORT}"),
            backend: behind.elastic,
            runs: 0,
            metrics: 0,
        };
        let running = gateway.start()?;
        gateways.push((gateway, running));
    }
    let config = stack::config(workspace, "gateway/agent.yaml")?;
    let (mut hosts, mut collectors) = (Vec::new(), Vec::new());
    for name in HOSTS {
        let folder = stack::made(folder.join(name))?;
        let collector = hosts_collector(&binary, &config, &folder)?;
        hosts.push(Host::start(name, programs, collector.port, &folder)?);
        collectors.push(collector.process);
    }
    let began = Instant::now();
    for ((gateway, running), at) in gateways.iter_mut().zip(KILLS) {
        sleep(at.saturating_sub(began.elapsed()));
        ensure!(gateway.has_received()?, "the gateway at {} has received nothing", gateway.address);
        for host in &mut hosts {
            ensure!(!host.clients.has_ended()?, "the clients have ended before the kill");
        }
        running.kill()?;
        sleep(AWAY);
        *running = gateway.start()?;
    }
    let mut made = HashSet::new();
    for host in hosts {
        made.extend(host.stop()?);
    }
    let of_hosts = json!({ "prefix": { "resource.attributes.host.name": "gateways-" } });
    let again = behind.until_right("elasticsearch", |port| {
        Ok(kept::of_elasticsearch(port, &of_hosts).and_then(|kept| kept.again(&made)))
    })?;
    ensure!(again == 0, "{again} records are there twice");
    let refused = kept::refused_by_elasticsearch(behind.backends["elasticsearch"].port)? - refused_before;
    // What they have on their disks they would not send any more.
    for process in collectors.into_iter().chain(gateways.into_iter().map(|(_, running)| running)) {
        process.stop(STOP)?;
    }
    Ok(format!(
        "gateways: two agents, two gateways, each killed once: {} records made, all of them in Elasticsearch, none twice; {refused} were sent again and refused",
        made.len()
    ))
}

/// What a host has between its agent and the gateways.
fn hosts_collector(binary: &Path, config: &str, folder: &Path) -> Result<collector::Sink> {
    let hosts = folder.join("hosts");
    let names = GATEWAYS.map(|address| format!("{address} {NAME}\n"));
    fs::write(&hosts, names.concat()).with_context(|| format!("writing {}", hosts.display()))?;
    let mut collector = Command::new("unshare");
    collector.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    collector.arg(hosts).arg(binary);
    let storage = folder.join("storage");
    let environment = [
        ("ACCEPTD_STORAGE_DIRECTORY", storage.as_os_str()),
        ("ACCEPTD_GATEWAYS", OsStr::new(NAME)),
        ("ACCEPTD_GATEWAYS_PORT", &OsString::from(PORT.to_string())),
    ];
    collector::start_as(collector, folder, &[config], &environment)
}

impl Gateway {
    /// On its volume, whether or not there is something on it.
    fn start(&mut self) -> Result<Running> {
        self.runs += 1;
        let folder = stack::made(self.folder.join(self.runs.to_string()))?;
        let storage = self.folder.join("storage");
        let backend = format!("http://127.0.0.1:{}", self.backend);
        self.metrics = host::free_port()?;
        let metrics = self.metrics.to_string();
        let environment = [
            ("ACCEPTD_OTLP_ADDRESS", OsStr::new(&self.address)),
            ("ACCEPTD_STORAGE_DIRECTORY", storage.as_os_str()),
            ("ACCEPTD_BACKEND_ENDPOINT", OsStr::new(&backend)),
            ("ACCEPTD_METRICS_PORT", OsStr::new(&metrics)),
        ];
        Ok(collector::start_with(&self.binary, &folder, &[&self.config], &environment)?.process)
    }

    /// Whether it received records since it runs.
    fn has_received(&self) -> Result<bool> {
        const NAME: &str = "otelcol_receiver_accepted_log_records";
        let (_, text) = http::get(self.metrics, "/metrics")?;
        let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        Ok(text.lines().filter(|line| line.starts_with(NAME)).filter_map(count).any(|count| count > 0.0))
    }
}

impl Host {
    fn start(name: &'static str, programs: &Path, collector: u16, folder: &Path) -> Result<Self> {
        let workload = programs.join("workload");
        // Nobody listens there on this host, so who does is in the new network.
        let port = host::free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut server = Command::new("unshare");
        server.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" fast \"$1\""]);
        server.arg(&workload).arg(&address);
        let server = Server::start(name, server, port, folder)?;
        let network = format!("/proc/{}/ns/net", server.pid);
        let network = fs::metadata(&network).with_context(|| format!("reading {network}"))?.ino();
        let records = folder.join("records.jsonl");
        let settings = [
            format!("filter.netns={network}"),
            "capture.pin_directory=none".to_owned(),
            format!("host.name={name}"),
            format!("admin.listen=127.0.0.1:{}", host::free_port()?),
            format!("destinations.records.file={}", records.display()),
        ];
        let mut agent = agent::start_with(&programs.join("acceptd"), folder, collector, &settings)?;
        // Its own event of the start is the first record.
        until("the agent of a host to capture", DEADLINE, || {
            agent.require_alive()?;
            Ok(records.metadata().is_ok_and(|file| file.len() > 0).then_some(()))
        })?;
        let mut clients = Command::new("nsenter");
        clients.args(["--target", &server.pid.to_string(), "--net"]).arg(&workload);
        let clients = Crowd::start(clients, &address, PLAN, folder)?;
        Ok(Self { server, clients, agent, records })
    }

    /// When its clients have ended; returns the uids of what its agent made.
    fn stop(self) -> Result<HashSet<String>> {
        self.clients.finish(|| Ok(()))?;
        let accepted = self.server.peers()?.len();
        ensure!(accepted == PLAN.connections(), "the server accepted {accepted}");
        let ledger = Ledger::from_log(&self.agent.stop(STOP)?)?;
        ledger.check()?;
        let made = Made::read(&self.records, &ledger)?;
        ensure!(made.accepts.len() == accepted, "{} accepts of {accepted} were captured", made.accepts.len());
        Ok(made.uids)
    }
}
