//! Runs the topology of otel-config/gateway: two agents, each for one network namespace; one Collector for
//! each agent, with its queue on disk; two gateways, which are killed one after the other and restarted on
//! their volumes; Elasticsearch. At the end, Elasticsearch must have each record of the agents exactly once.

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
use xtask_support::External;

use super::{
    crowd::{Crowd, CrowdPlan},
    recorded::Recorded,
    stack::{Pipeline, STOP, create_folder},
    stored,
    workload::WorkloadServer,
};
use crate::{
    agent,
    collector::{self, Collector},
    host, http,
    ledger::Ledger,
    process::{Running, until},
    suite::Suite,
};

const HOSTS: [&str; 2] = ["gateways-one", "gateways-two"];
/// The addresses of the gateways. Each host's Collector sends to one of them, by a hash of the host's name
/// and the gateway's address. With these addresses and this port, the two hosts choose different gateways.
const GATEWAYS: [&str; 2] = ["127.0.1.1", "127.0.1.2"];
const PORT: u16 = 14317;
/// The host name that the hosts' Collectors resolve to both gateways.
const GATEWAYS_NAME: &str = "gateways.test";

/// The clients of each host.
const PLAN: CrowdPlan = CrowdPlan { rate: 200, seconds: 45, addresses: 200 };
/// The times after the start of the clients at which the gateways are killed.
const KILLS: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(22)];
/// How long a killed gateway stays down.
const OUTAGE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_mins(3);

/// How to start one gateway.
struct Gateway {
    binary: PathBuf,
    config: String,
    folder: PathBuf,
    address: String,
    /// The port of the Collector in front of Elasticsearch.
    backend: u16,
    /// How many times this gateway was started.
    starts: u32,
    /// The port of the gateway's own metrics, which changes with each start.
    metrics: u16,
}

/// One simulated host: a network namespace with a server and its clients, and the agent that records it.
struct Host {
    server: WorkloadServer,
    clients: Crowd,
    agent: Running,
    records: PathBuf,
}

/// Runs the topology in front of the Elasticsearch of `pipeline`, and returns a line to report.
pub(super) fn run(suite: &Suite, folder: &Path, pipeline: &mut Pipeline) -> Result<String> {
    let refused_before = stored::refused_by_elasticsearch(pipeline.backends["elasticsearch"].port)?;
    let binary = suite.external(External::CollectorContrib)?.to_path_buf();
    let mut gateways = Vec::new();
    for address in GATEWAYS {
        let mut gateway = Gateway {
            binary: binary.clone(),
            config: suite.collector_config("gateway/gateway.yaml")?,
            folder: create_folder(folder.join(address))?,
            address: format!("{address}:{PORT}"),
            backend: pipeline.elastic,
            starts: 0,
            metrics: 0,
        };
        let running = gateway.start()?;
        gateways.push((gateway, running));
    }
    let config = suite.collector_config("gateway/agent.yaml")?;
    let (mut hosts, mut collectors) = (Vec::new(), Vec::new());
    for name in HOSTS {
        let folder = create_folder(folder.join(name))?;
        let collector = start_host_collector(&binary, &config, &folder)?;
        hosts.push(Host::start(name, suite, collector.port, &folder)?);
        collectors.push(collector.process);
    }
    let started = Instant::now();
    for ((gateway, running), at) in gateways.iter_mut().zip(KILLS) {
        sleep(at.saturating_sub(started.elapsed()));
        ensure!(gateway.has_received()?, "the gateway at {} has received no records", gateway.address);
        for host in &mut hosts {
            ensure!(!host.clients.has_exited()?, "the clients have exited before a gateway was killed");
        }
        running.kill()?;
        sleep(OUTAGE);
        *running = gateway.start()?;
    }
    let mut uids = HashSet::new();
    for host in hosts {
        uids.extend(host.stop()?);
    }
    let query = json!({ "prefix": { "resource.attributes.host.name": "gateways-" } });
    let twice = pipeline.until_right("elasticsearch", |port| {
        Ok(stored::in_elasticsearch(port, &query).and_then(|stored| stored.duplicates(&uids)))
    })?;
    ensure!(twice == 0, "Elasticsearch has {twice} records twice");
    let refused = stored::refused_by_elasticsearch(pipeline.backends["elasticsearch"].port)? - refused_before;
    // The Collectors must run up to here: a stopped one does not send the records that are in its queue on
    // disk.
    for process in collectors.into_iter().chain(gateways.into_iter().map(|(_, running)| running)) {
        process.stop(STOP)?;
    }
    Ok(format!(
        "gateways: two agents, two gateways, each killed once: {} records made, all of them in Elasticsearch, none twice; {refused} were sent again and refused",
        uids.len()
    ))
}

/// Starts the Collector between a host's agent and the gateways, with an /etc/hosts that names both gateways.
fn start_host_collector(binary: &Path, config: &str, folder: &Path) -> Result<Collector> {
    let hosts = folder.join("hosts");
    let names = GATEWAYS.map(|address| format!("{address} {GATEWAYS_NAME}\n"));
    fs::write(&hosts, names.concat()).with_context(|| format!("writing {}", hosts.display()))?;
    let mut collector = Command::new("unshare");
    collector.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    collector.arg(hosts).arg(binary);
    let storage = folder.join("storage");
    let environment = [
        ("ACCEPTD_STORAGE_DIRECTORY", storage.as_os_str()),
        ("ACCEPTD_GATEWAYS", OsStr::new(GATEWAYS_NAME)),
        ("ACCEPTD_GATEWAYS_PORT", &OsString::from(PORT.to_string())),
    ];
    collector::start_as(collector, folder, &[config], &environment)
}

impl Gateway {
    /// Starts the gateway on its volume, which has the queue of the previous start.
    fn start(&mut self) -> Result<Running> {
        self.starts += 1;
        let folder = create_folder(self.folder.join(self.starts.to_string()))?;
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

    /// Whether the gateway has received records since its last start, by its own metrics.
    fn has_received(&self) -> Result<bool> {
        const RECEIVED: &str = "otelcol_receiver_accepted_log_records";
        let (_, text) = http::get(self.metrics, "/metrics")?;
        let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        Ok(text.lines().filter(|line| line.starts_with(RECEIVED)).filter_map(count).any(|count| count > 0.0))
    }
}

impl Host {
    /// Starts a server in a new network namespace, an agent that records only that namespace, and clients.
    fn start(name: &'static str, suite: &Suite, collector: u16, folder: &Path) -> Result<Self> {
        let workload = suite.program("workload");
        // The port is free in the suite's namespace, so a listener on it must be in the new one.
        let port = host::free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut server = Command::new("unshare");
        server.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" fast \"$1\""]);
        server.arg(&workload).arg(&address);
        let server = WorkloadServer::start(name, server, port, folder)?;
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
        let mut agent = agent::start_with(&suite.program("acceptd"), folder, collector, &settings)?;
        // The first record in the file is the agent's event `acceptd.agent.started`.
        until("the agent of a host to capture", DEADLINE, || {
            agent.require_alive()?;
            Ok(records.metadata().is_ok_and(|file| file.len() > 0).then_some(()))
        })?;
        let mut clients = Command::new("nsenter");
        clients.args(["--target", &server.pid.to_string(), "--net"]).arg(&workload);
        let clients = Crowd::start(clients, &address, PLAN, folder)?;
        Ok(Self { server, clients, agent, records })
    }

    /// Waits for the clients, stops the agent, and returns the uids of its records.
    fn stop(self) -> Result<HashSet<String>> {
        self.clients.finish(|| Ok(()))?;
        let accepted = self.server.peers()?.len();
        ensure!(
            accepted == PLAN.connections(),
            "the server accepted {accepted} connections of {}",
            PLAN.connections()
        );
        let ledger = Ledger::from_log(&self.agent.stop(STOP)?)?;
        ledger.check()?;
        let recorded = Recorded::read(&self.records, &ledger)?;
        let captured = recorded.accepts.len();
        ensure!(captured == accepted, "{captured} accepts of {accepted} were captured");
        Ok(recorded.uids)
    }
}
