//! `cargo xtask backends`: the demo's workload, the agent, Collectors with the shipped configurations and real backends. Each query of
//! docs/queries.md and each expression of the dashboards is asked there, and the answer held against what the workload's servers say.
//! With `--quick` Elasticsearch and `VictoriaLogs`, with `--full` also Jaeger, Loki and Prometheus.

mod answer;
mod ask;
mod backend;
mod configs;
mod dashboards;
mod elasticsearch;
mod expected;
mod loki;
mod prometheus;
mod queries;
#[cfg(test)]
mod versions;
mod victoria_logs;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::{Timestamp, ToSpan as _};

use crate::collector::Sink;
use crate::jaeger::Jaeger;
use crate::ledger::Ledger;
use crate::process::{Running, until};
use crate::records::{Record, Tail};
use crate::workspace::Workspace;
use crate::{Extent, agent, build, collector, host, results};
use answer::Row;
use backend::Backend;
use dashboards::Expression;
use expected::{Connection, Truth};
use queries::{Query, Values};
use workload::Workload;

const DOCUMENT: &str = "docs/queries.md";
const DASHBOARDS: &str = "packaging/demo/grafana/dashboards";

/// How far back is asked: the whole run.
const RANGE: &str = "30m";
/// How long an answer may take to be right: the workload has to do what is asked for, and metrics come each few seconds.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_secs(1);
const STOP: Duration = Duration::from_secs(30);

/// Everything that runs, but for the workload.
struct Stack {
    agent: Running,
    arrived: Tail,
    collectors: Vec<Running>,
    /// By the name that docs/queries.md has.
    backends: BTreeMap<&'static str, Backend>,
}

/// Builds `VictoriaLogs`, while others are built.
pub(crate) fn ahead(workspace: &Workspace) -> Result<()> {
    victoria_logs::ahead(workspace)
}

/// Runs the suite; with `--full` writes the answers into docs/queries.md, and docs/results/backends.md.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    host::require_root("backends")?;
    let document =
        std::fs::read_to_string(workspace.path(DOCUMENT)).with_context(|| format!("reading {DOCUMENT}"))?;
    let queries = queries::read(&document)?;
    let configurations = configs::validate(workspace, extent.full)?;
    println!("{configurations} configurations of Collectors are valid");
    let programs = build::suites(workspace, extent.profile())?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let mut stack = if extent.full {
        Stack::full(workspace, &programs, folder.path())?
    } else {
        Stack::quick(workspace, &programs, folder.path())?
    };
    let started = Instant::now();
    let mut records = agent::wait_until_captures(&mut stack.agent, &mut stack.arrived)?;
    let mut workload = Workload::start(&programs.join("workload"), folder.path())?;
    let connection = stack.slow_connection(&mut workload, &mut records)?;

    let asked: Vec<&Query> =
        queries.iter().filter(|query| stack.backends.contains_key(query.backend.as_str())).collect();
    let mut answers = BTreeMap::new();
    let mut wrong = 0;
    for query in &asked {
        match stack.answer(&mut workload, query, &connection) {
            Ok(row) => {
                println!("answered: {}", query.id());
                answers.extend(row.map(|row| (query.id(), shown(&row))));
            }
            Err(error) => {
                wrong += 1;
                println!("NOT ANSWERED: {}: {error:#}", query.id());
            }
        }
    }
    let expressions = dashboards::read(&workspace.path(DASHBOARDS))?;
    let shown: Vec<_> =
        expressions.iter().filter(|one| stack.backends.contains_key(one.backend.as_str())).collect();
    for expression in &shown {
        if let Err(error) = stack.shows(&mut workload, expression) {
            wrong += 1;
            println!("NOT SHOWN: {}: {error:#}", expression.name);
        }
    }
    let ledger = stack.stop()?;
    ledger.check()?;
    let all = asked.len() + shown.len();
    println!("{} passed, {wrong} failed, after {} s", all - wrong, started.elapsed().as_secs());
    if wrong > 0 {
        bail!("{wrong} answers are not what the workload did");
    }
    if extent.full {
        std::fs::write(workspace.path(DOCUMENT), queries::with_answers(&document, &answers))
            .with_context(|| format!("writing {DOCUMENT}"))?;
        let figures = format!(
            "{} queries asked of {} backends, each answered by what the workload did\n{} records sent\n",
            asked.len(),
            backends_of(&asked),
            ledger.records()?
        );
        results::write(workspace, "backends", "What backends show", &[], &figures)?;
    }
    Ok(())
}

/// A row, a value a line.
fn shown(row: &Row) -> String {
    let lines: Vec<_> = row.iter().map(|(name, value)| format!("{name}={value}")).collect();
    lines.join("\n")
}

fn backends_of(asked: &[&Query]) -> usize {
    asked.iter().map(|query| &query.backend).collect::<BTreeSet<_>>().len()
}

impl Stack {
    /// The agent sends to the Collector in front of Elasticsearch.
    fn quick(workspace: &Workspace, programs: &Path, folder: &Path) -> Result<Self> {
        let (elasticsearch, elastic) = start_elastic(workspace, folder)?;
        let victorialogs = victoria_logs::start(workspace, &folder.join("victorialogs"))?;
        let backends = BTreeMap::from([("elasticsearch", elasticsearch), ("victorialogs", victorialogs)]);
        Self::with_agent(programs, folder, elastic.port, vec![elastic.process], backends)
    }

    /// The agent sends to the demo's Collector, in the profile `elastic`.
    fn full(workspace: &Workspace, programs: &Path, folder: &Path) -> Result<Self> {
        let (elasticsearch, elastic) = start_elastic(workspace, folder)?;
        let victorialogs = victoria_logs::start(workspace, &folder.join("victorialogs"))?;
        let jaeger = Jaeger::start(workspace, folder)?;
        let loki = loki::start(workspace, &folder.join("loki"))?;
        let prometheus = prometheus::start(workspace, &folder.join("prometheus"))?;
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
            &collector::build_contrib(workspace)?,
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
        Self::with_agent(programs, folder, demo.port, vec![demo.process, elastic.process], backends)
    }

    /// The agent, which sends its records to `VictoriaLogs` itself, and to a file: what it captures is known by that.
    fn with_agent(
        programs: &Path,
        folder: &Path,
        port: u16,
        collectors: Vec<Running>,
        backends: BTreeMap<&'static str, Backend>,
    ) -> Result<Self> {
        let records = folder.join("records.jsonl");
        let victorialogs = &backends["victorialogs"];
        let settings = [
            format!(
                "destinations.victorialogs.endpoint=http://127.0.0.1:{}/insert/opentelemetry",
                victorialogs.port
            ),
            "destinations.victorialogs.protocol=http/protobuf".to_owned(),
            "destinations.victorialogs.headers=VL-Stream-Fields=service.name%2Chost.name".to_owned(),
            format!("destinations.records.file={}", records.display()),
            "traces.ratio=1".to_owned(),
            "metrics.interval=2s".to_owned(),
            "listener.interval=500ms".to_owned(),
        ];
        let flags: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let agent = agent::start_with(&programs.join("acceptd"), folder, port, &flags)?;
        Ok(Self { agent, arrived: Tail::new(records), collectors, backends })
    }

    /// A connection that waited to be accepted, as the agent's file has it; that there was one is the server's word.
    fn slow_connection(&mut self, workload: &mut Workload, records: &mut Vec<Record>) -> Result<Connection> {
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

    /// Asks until the answer is right, and returns the row that makes it so; what is wrong at the end is the error.
    fn answer(
        &mut self,
        workload: &mut Workload,
        query: &Query,
        connection: &Connection,
    ) -> Result<Option<Row>> {
        self.until_right(workload, &query.backend, |port, workload| {
            let rows = ask::ask(&query.backend, port, &query.with(&values(query, workload, connection))?)?;
            let expected = Truth::of(workload, connection)?.expected();
            expected::check(&expected, &query.backend, &query.question, &rows).map(Option::<&Row>::cloned)
        })
    }

    /// Asks until a panel shows what it should.
    fn shows(&mut self, workload: &mut Workload, expression: &Expression) -> Result<()> {
        self.until_right(workload, &expression.backend, |port, _| {
            dashboards::check(expression, &ask::ask(&expression.backend, port, &expression.text)?)
        })
    }

    fn until_right<T>(
        &mut self,
        workload: &mut Workload,
        backend: &str,
        ask: impl Fn(u16, &Workload) -> Result<T>,
    ) -> Result<T> {
        let port = self.backends[backend].port;
        let mut wrong = None;
        let answer = until("the right answer", PATIENCE, || {
            workload.require_alive()?;
            self.agent.require_alive()?;
            match ask(port, workload) {
                Ok(answer) => Ok(Some(answer)),
                Err(error) => {
                    wrong = Some(error);
                    sleep(PAUSE);
                    Ok(None)
                }
            }
        });
        answer.map_err(|waited| wrong.unwrap_or(waited))
    }

    fn stop(self) -> Result<Ledger> {
        let ledger = Ledger::from_log(&self.agent.stop(STOP)?)?;
        for collector in self.collectors {
            collector.stop(STOP)?;
        }
        for backend in self.backends.into_values() {
            backend.stop()?;
        }
        Ok(ledger)
    }
}

fn start_elastic(workspace: &Workspace, folder: &Path) -> Result<(Backend, Sink)> {
    let elasticsearch = elasticsearch::start(workspace, &made(folder.join("elasticsearch"))?)?;
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
fn config(workspace: &Workspace, name: &str) -> Result<String> {
    std::fs::read_to_string(workspace.path("otel-config").join(name))
        .with_context(|| format!("reading otel-config/{name}"))
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

/// What the names in a query stand for.
fn values(query: &Query, workload: &Workload, connection: &Connection) -> Values {
    let server = if query.question == "backlog" { &workload.crowded } else { &workload.slow };
    let time = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let now = Timestamp::now();
    Values::from([
        ("service", server.name.to_owned()),
        ("port", server.port.to_string()),
        ("peer", "127.0.0.1".to_owned()),
        ("path", workload.unix.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
        ("trace_id", connection.trace_id.clone()),
        ("range", RANGE.to_owned()),
        ("start", time(now - 30.minutes())),
        ("end", time(now + 1.minute())),
    ])
}
