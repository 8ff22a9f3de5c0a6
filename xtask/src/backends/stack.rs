//! What the suite runs: backends, Collectors with the shipped configurations, and the agent.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    backend::Backend, elasticsearch, expected::Connection, loki, prometheus, victoria_logs,
    workload::Workload,
};
use crate::{
    agent, collector,
    collector::Sink,
    host,
    jaeger::Jaeger,
    ledger::Ledger,
    process::{Running, until, until_after},
    records::{Record, Tail},
    workspace::Workspace,
};

/// The workload has to do what is asked for, and metrics come each few seconds.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_secs(1);
pub(super) const STOP: Duration = Duration::from_secs(30);

/// Everything that runs, but for the workload.
pub(super) struct Stack {
    pub(super) agent: Running,
    /// Where the agent says how it is.
    pub(super) admin: u16,
    /// What the agent writes into a file.
    pub(super) records: PathBuf,
    pub(super) arrived: Tail,
    pub(super) behind: Behind,
}

/// Where the agent sends to.
pub(super) struct Behind {
    /// Of the first Collector: where it receives OTLP over gRPC.
    pub(super) port: u16,
    /// Of the Collector in front of Elasticsearch: where it receives OTLP over HTTP.
    pub(super) elastic: u16,
    collectors: Vec<Running>,
    /// How long an answer may take to be right.
    pub(super) patience: Duration,
    /// By the name that docs/queries.md has.
    pub(super) backends: BTreeMap<&'static str, Backend>,
}

impl Stack {
    /// The agent sends to the Collector in front of Elasticsearch.
    pub(super) fn quick(workspace: &Workspace, programs: &Path, folder: &Path) -> Result<Self> {
        let (elasticsearch, elastic) = start_elastic(workspace, folder, "")?;
        let victorialogs = victoria_logs::start(workspace, &folder.join("victorialogs"))?;
        let backends = BTreeMap::from([("elasticsearch", elasticsearch), ("victorialogs", victorialogs)]);
        let behind = Behind {
            port: elastic.port,
            elastic: elastic.http_port,
            collectors: vec![elastic.process],
            patience: PATIENCE,
            backends,
        };
        Self::with_agent(programs, folder, behind)
    }

    /// The agent sends to the demo's Collector, in the profile `elastic`.
    pub(super) fn full(workspace: &Workspace, programs: &Path, folder: &Path) -> Result<Self> {
        let (elasticsearch, elastic) = start_elastic(workspace, folder, elasticsearch::LARGE)?;
        let victorialogs = victoria_logs::start(workspace, &folder.join("victorialogs"))?;
        let loki = loki::start(workspace, &folder.join("loki"))?;
        let prometheus = prometheus::start(workspace, &folder.join("prometheus"))?;
        let jaeger = Jaeger::start(workspace, folder, Some(prometheus.port))?;
        let configs = [config(workspace, "demo.yaml")?, config(workspace, "demo/elastic.yaml")?];
        let addresses = [
            ("ACCEPTD_ELASTIC_ENDPOINT", format!("127.0.0.1:{}", elastic.port)),
            ("ACCEPTD_JAEGER_ENDPOINT", format!("127.0.0.1:{}", jaeger.otlp)),
            ("ACCEPTD_LOKI_ENDPOINT", format!("http://127.0.0.1:{}", loki.port)),
            ("ACCEPTD_PROMETHEUS_ENDPOINT", format!("http://127.0.0.1:{}", prometheus.port)),
        ];
        let environment = addresses.each_ref().map(|(name, value)| (*name, OsStr::new(value)));
        let folder_of_demo = made(folder.join("demo"))?;
        let demo = collector::start_with(
            &collector::build(workspace)?,
            &folder_of_demo,
            &configs.each_ref().map(String::as_str),
            &environment,
        )?;
        let backends = BTreeMap::from([
            ("elasticsearch", elasticsearch),
            ("jaeger", Backend::of(jaeger.process, jaeger.query)),
            ("loki", loki),
            ("prometheus", prometheus),
            ("victorialogs", victorialogs),
        ]);
        // The first one sends to the other.
        let behind = Behind {
            port: demo.port,
            elastic: elastic.http_port,
            collectors: vec![demo.process, elastic.process],
            patience: PATIENCE,
            backends,
        };
        Self::with_agent(programs, folder, behind)
    }

    /// The agent, which sends its records to `VictoriaLogs` itself, and to a file: what it captures is known by that.
    fn with_agent(programs: &Path, folder: &Path, behind: Behind) -> Result<Self> {
        let (admin, records) = (host::free_port()?, folder.join("records.jsonl"));
        let mut settings = behind.settings_of_victorialogs();
        settings.extend([
            format!("destinations.records.file={}", records.display()),
            "traces.ratio=1".to_owned(),
            format!("admin.listen=127.0.0.1:{admin}"),
            "metrics.interval=2s".to_owned(),
            "listener.interval=500ms".to_owned(),
            // What the slowest backend has not taken yet waits here.
            format!("spool.directory={}", folder.join("spool").display()),
            "spool.max_bytes=8GiB".to_owned(),
        ]);
        let agent = agent::start_with(&programs.join("acceptd"), folder, behind.port, &settings)?;
        Ok(Self { agent, admin, arrived: Tail::new(records.clone()), records, behind })
    }

    /// A connection that waited to be accepted, as the agent's file has it; that there was one is the server's word.
    pub(super) fn slow_connection(
        &mut self,
        workload: &mut Workload,
        records: &mut Vec<Record>,
    ) -> Result<Connection> {
        until("the record of a slow accept", PATIENCE, || {
            workload.require_alive()?;
            self.agent.require_alive()?;
            records.extend(self.arrived.read()?);
            let peers = workload.slow.peers()?;
            let pid = workload.slow.pid.to_string();
            let of_slow = |record: &&Record| record.is_accept() && record.resource("process.pid") == pid;
            Ok(records.iter().filter(of_slow).find_map(|record| {
                let port = record.attribute("network.peer.port").parse().ok()?;
                let is_known = peers.iter().any(|peer| peer.port() == port);
                is_known.then(|| Connection { trace_id: record.trace_id.clone(), peer_port: port })
            }))
        })
    }

    /// Asks until the answer is right; what is wrong at the end is the error.
    pub(super) fn until_right<T>(
        &mut self,
        workload: &mut Workload,
        backend: &str,
        mut ask: impl FnMut(u16, &Workload) -> Result<T>,
    ) -> Result<T> {
        let Self { agent, behind, .. } = self;
        behind.until_right(backend, |port| {
            let alive = workload.require_alive().and_then(|()| agent.require_alive());
            alive.map(|()| ask(port, workload))
        })
    }

    /// Ends the agent; all it had to say is on its way then.
    pub(super) fn stop_agent(self) -> Result<(Ledger, Behind)> {
        Ok((Ledger::from_log(&self.agent.stop(STOP)?)?, self.behind))
    }
}

impl Behind {
    /// Of an agent that sends its records there itself.
    pub(super) fn settings_of_victorialogs(&self) -> Vec<String> {
        let port = self.backends["victorialogs"].port;
        vec![
            format!("destinations.victorialogs.endpoint=http://127.0.0.1:{port}/insert/opentelemetry"),
            "destinations.victorialogs.protocol=http/protobuf".to_owned(),
            "destinations.victorialogs.headers=VL-Stream-Fields=service.name%2Chost.name".to_owned(),
        ]
    }

    /// Whether this backend runs.
    pub(super) fn has(&self, backend: &str) -> bool {
        self.backends.contains_key(backend)
    }

    /// Asks until the answer is right; what is wrong at the end is the error. The outer result is of those who should be there.
    pub(super) fn until_right<T>(
        &mut self,
        backend: &str,
        mut ask: impl FnMut(u16) -> Result<Result<T>>,
    ) -> Result<T> {
        let port = self.backends[backend].port;
        let mut wrong = None;
        let answer = until_after(PAUSE, "the right answer", self.patience, || {
            self.backends.values_mut().try_for_each(Backend::require_alive)?;
            self.collectors.iter_mut().try_for_each(Running::require_alive)?;
            match ask(port)? {
                Ok(answer) => Ok(Some(answer)),
                Err(error) => {
                    wrong = Some(error);
                    Ok(None)
                }
            }
        });
        answer.map_err(|error| match wrong {
            Some(wrong) => error.context(format!("{wrong:#}")),
            None => error,
        })
    }

    pub(super) fn stop(self) -> Result<()> {
        for collector in self.collectors {
            collector.stop(STOP)?;
        }
        self.backends.into_values().try_for_each(Backend::stop)
    }
}

fn start_elastic(workspace: &Workspace, folder: &Path, flags: &str) -> Result<(Backend, Sink)> {
    let elasticsearch = elasticsearch::start(workspace, &folder.join("elasticsearch"), flags)?;
    let endpoint = format!("http://127.0.0.1:{}", elasticsearch.port);
    let environment = [("ACCEPTD_ELASTICSEARCH_ENDPOINT", OsStr::new(&endpoint))];
    let binary = collector::build_elastic(workspace)?;
    let elastic = collector::start_with(
        &binary,
        &made(folder.join("elastic"))?,
        &[&config(workspace, "elastic.yaml")?],
        &environment,
    )?;
    Ok((elasticsearch, elastic))
}

/// One of the shipped configurations.
pub(super) fn config(workspace: &Workspace, name: &str) -> Result<String> {
    std::fs::read_to_string(workspace.path("otel-config").join(name))
        .with_context(|| format!("reading otel-config/{name}"))
}

pub(super) fn made(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}
