//! Starts and stops the processes that the suite runs beside the workload: backends, Collectors with the
//! shipped configurations, and the agent.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use xtask_support::External;

use super::{backend::Backend, elasticsearch, loki, prometheus, victoria_logs, workload::Workload};
use crate::{
    agent,
    collector::{self, Collector},
    host,
    jaeger::Jaeger,
    ledger::Ledger,
    process::{Running, until, until_after},
    records::{Record, Tail},
    suite::Suite,
};

/// How long to repeat a query until its answer is right: the workload must first produce the event, and
/// metrics come every few seconds.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_secs(1);
pub(super) const STOP: Duration = Duration::from_secs(30);

/// The agent, and the pipeline that receives its records.
pub(super) struct Stack {
    pub(super) agent: Running,
    /// The port of the agent's admin interface.
    pub(super) admin: u16,
    /// The file into which the agent writes its records.
    pub(super) records: PathBuf,
    /// The reader of that file.
    pub(super) arrived: Tail,
    pub(super) pipeline: Pipeline,
}

/// The Collectors and backends that receive from the agent.
pub(super) struct Pipeline {
    /// The port of the first Collector that receives OTLP over gRPC.
    pub(super) port: u16,
    /// The port of the Collector in front of Elasticsearch that receives OTLP over HTTP.
    pub(super) elastic: u16,
    collectors: Vec<Running>,
    /// How long to repeat a query until its answer is right.
    pub(super) patience: Duration,
    /// The backends by their names in docs/queries.md.
    pub(super) backends: BTreeMap<&'static str, Backend>,
}

/// One connection to the slow server, for which queries search by trace id or client port.
pub(super) struct SlowConnection {
    pub(super) trace_id: String,
    pub(super) peer_port: u16,
}

impl Stack {
    /// Starts Elasticsearch and `VictoriaLogs`. The agent sends to the Collector in front of Elasticsearch.
    pub(super) fn quick(suite: &Suite, folder: &Path) -> Result<Self> {
        let (elasticsearch, elastic) = start_elastic(suite, folder, "")?;
        let victorialogs = victoria_logs::start(suite, &folder.join("victorialogs"))?;
        let backends = BTreeMap::from([("elasticsearch", elasticsearch), ("victorialogs", victorialogs)]);
        let pipeline = Pipeline {
            port: elastic.port,
            elastic: elastic.http_port,
            collectors: vec![elastic.process],
            patience: PATIENCE,
            backends,
        };
        Self::with_agent(suite, folder, pipeline)
    }

    /// Starts all backends. The agent sends to the demo's Collector, in the profile `elastic`.
    pub(super) fn full(suite: &Suite, folder: &Path) -> Result<Self> {
        let (elasticsearch, elastic) = start_elastic(suite, folder, elasticsearch::LARGE_FLAGS)?;
        let victorialogs = victoria_logs::start(suite, &folder.join("victorialogs"))?;
        let loki = loki::start(suite, &folder.join("loki"))?;
        let prometheus = prometheus::start(suite, &folder.join("prometheus"))?;
        let jaeger = Jaeger::start(suite, folder, Some(prometheus.port))?;
        let configs = [suite.collector_config("demo.yaml")?, suite.collector_config("demo/elastic.yaml")?];
        let addresses = [
            ("ACCEPTD_ELASTIC_ENDPOINT", format!("127.0.0.1:{}", elastic.port)),
            ("ACCEPTD_JAEGER_ENDPOINT", format!("127.0.0.1:{}", jaeger.otlp)),
            ("ACCEPTD_LOKI_ENDPOINT", format!("http://127.0.0.1:{}", loki.port)),
            ("ACCEPTD_PROMETHEUS_ENDPOINT", format!("http://127.0.0.1:{}", prometheus.port)),
        ];
        let environment = addresses.each_ref().map(|(name, value)| (*name, OsStr::new(value)));
        let demo_folder = create_folder(folder.join("demo"))?;
        let demo = collector::start_with(
            suite.external(External::Collector)?,
            &demo_folder,
            &configs.each_ref().map(String::as_str),
            &environment,
        )?;
        let backends = BTreeMap::from([
            ("elasticsearch", elasticsearch),
            ("jaeger", Backend::from_running(jaeger.process, jaeger.query)),
            ("loki", loki),
            ("prometheus", prometheus),
            ("victorialogs", victorialogs),
        ]);
        let pipeline = Pipeline {
            port: demo.port,
            elastic: elastic.http_port,
            // The Collectors are stopped in this order, because the demo's Collector sends to the one in
            // front of Elasticsearch.
            collectors: vec![demo.process, elastic.process],
            patience: PATIENCE,
            backends,
        };
        Self::with_agent(suite, folder, pipeline)
    }

    /// Starts the agent. Besides the pipeline, it sends its records to `VictoriaLogs` directly, and writes
    /// them into a file, from which the suite reads the captured records.
    fn with_agent(suite: &Suite, folder: &Path, pipeline: Pipeline) -> Result<Self> {
        let (admin, records) = (host::free_port()?, folder.join("records.jsonl"));
        let mut settings = pipeline.victorialogs_settings();
        settings.extend([
            format!("destinations.records.file={}", records.display()),
            "traces.ratio=1".to_owned(),
            format!("admin.listen=127.0.0.1:{admin}"),
            "metrics.interval=2s".to_owned(),
            "listener.interval=500ms".to_owned(),
            // Room for records that the slowest backend has not acknowledged yet.
            format!("spool.directory={}", folder.join("spool").display()),
            "spool.max_bytes=8GiB".to_owned(),
        ]);
        let agent = agent::start_with(&suite.program("acceptd"), folder, pipeline.port, &settings)?;
        Ok(Self { agent, admin, arrived: Tail::new(records.clone()), records, pipeline })
    }

    /// Starts the workload once the agent captures. Also returns the records that the agent wrote before
    /// that.
    pub(super) fn start_workload(&mut self, suite: &Suite, folder: &Path) -> Result<(Workload, Vec<Record>)> {
        let records = agent::wait_until_captures(&mut self.agent, &mut self.arrived)?;
        Ok((Workload::start(&suite.program("workload"), folder)?, records))
    }

    /// Waits for the record of a connection that the slow server accepted, by its log.
    pub(super) fn slow_connection(
        &mut self,
        workload: &mut Workload,
        records: &mut Vec<Record>,
    ) -> Result<SlowConnection> {
        until("the record of a slow accept", PATIENCE, || {
            workload.require_alive()?;
            self.agent.require_alive()?;
            records.extend(self.arrived.read()?);
            let peers = workload.slow.peers()?;
            let pid = workload.slow.pid.to_string();
            let is_from_slow = |record: &&Record| record.is_accept() && record.resource("process.pid") == pid;
            Ok(records.iter().filter(is_from_slow).find_map(|record| {
                let port = record.attribute("network.peer.port").parse().ok()?;
                let is_known = peers.iter().any(|peer| peer.port() == port);
                is_known.then(|| SlowConnection { trace_id: record.trace_id.clone(), peer_port: port })
            }))
        })
    }

    /// [`Pipeline::until_right`], which also fails if the agent or the workload exits.
    pub(super) fn until_right<T>(
        &mut self,
        workload: &mut Workload,
        backend: &str,
        mut ask: impl FnMut(u16, &Workload) -> Result<T>,
    ) -> Result<T> {
        let Self { agent, pipeline, .. } = self;
        pipeline.until_right(backend, |port| {
            let alive = workload.require_alive().and_then(|()| agent.require_alive());
            alive.map(|()| ask(port, workload))
        })
    }

    /// Stops the agent, which first delivers its records. Returns its final ledger.
    pub(super) fn stop_agent(self) -> Result<(Ledger, Pipeline)> {
        Ok((Ledger::from_log(&self.agent.stop(STOP)?)?, self.pipeline))
    }
}

impl Pipeline {
    /// The settings of an agent that sends its records to `VictoriaLogs` directly.
    pub(super) fn victorialogs_settings(&self) -> Vec<String> {
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

    /// Calls `ask` with the backend's port until the inner result is `Ok`. Returns the last inner error if
    /// that takes longer than [`Pipeline::patience`], and an outer error, such as a program that exited, at
    /// once.
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

    /// Stops the Collectors, then the backends.
    pub(super) fn stop(self) -> Result<()> {
        for collector in self.collectors {
            collector.stop(STOP)?;
        }
        self.backends.into_values().try_for_each(Backend::stop)
    }
}

fn start_elastic(suite: &Suite, folder: &Path, flags: &str) -> Result<(Backend, Collector)> {
    let elasticsearch = elasticsearch::start(suite, &folder.join("elasticsearch"), flags)?;
    let endpoint = format!("http://127.0.0.1:{}", elasticsearch.port);
    let environment = [("ACCEPTD_ELASTICSEARCH_ENDPOINT", OsStr::new(&endpoint))];
    let elastic = collector::start_with(
        suite.external(External::CollectorElastic)?,
        &create_folder(folder.join("elastic"))?,
        &[&suite.collector_config("elastic.yaml")?],
        &environment,
    )?;
    Ok((elasticsearch, elastic))
}

/// Creates a folder and returns its path.
pub(super) fn create_folder(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}
