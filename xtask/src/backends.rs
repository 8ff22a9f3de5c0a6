//! `cargo xtask backends`: the demo's workload, the agent, Collectors with the shipped configurations and real backends. Each query of
//! docs/queries.md and each expression of the dashboards is asked there, and the answer held against what the workload's servers say.
//! With `--quick` Elasticsearch and `VictoriaLogs`, with `--full` also Jaeger, Loki and Prometheus.

mod answer;
mod ask;
mod backend;
mod compose;
mod configs;
mod dashboards;
mod elasticsearch;
mod environment;
mod expected;
mod images;
mod loki;
mod prometheus;
mod queries;
mod shapes;
mod stack;
#[cfg(test)]
mod versions;
mod victoria_logs;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use jiff::{Timestamp, ToSpan as _};

use crate::workspace::Workspace;
use crate::{Extent, agent, build, host, results};
use answer::Row;
use dashboards::Expression;
use expected::{Connection, Truth};
use queries::{Query, Values};
use stack::Stack;
use workload::Workload;

const DOCUMENT: &str = "docs/queries.md";
const DASHBOARDS: &str = "packaging/demo/grafana/dashboards";
/// Names of them in both.
const BACKENDS: [&str; 5] = ["elasticsearch", "jaeger", "loki", "prometheus", "victorialogs"];

/// How far back is asked: the whole run.
const RANGE: &str = "30m";

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
    let expressions = dashboards::read(&workspace.path(DASHBOARDS))?;
    let of_queries = queries.iter().map(|query| (query.id(), &query.backend));
    let of_panels = expressions.iter().map(|expression| (expression.name.clone(), &expression.backend));
    for (name, backend) in of_queries.chain(of_panels) {
        if !BACKENDS.contains(&backend.as_str()) {
            bail!("{name}: there is no backend {backend}");
        }
    }
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
        match answer(&mut stack, &mut workload, query, &connection) {
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
    let panels: Vec<_> =
        expressions.iter().filter(|one| stack.backends.contains_key(one.backend.as_str())).collect();
    for expression in &panels {
        if let Err(error) = shows(&mut stack, &mut workload, expression) {
            wrong += 1;
            println!("NOT SHOWN: {}: {error:#}", expression.name);
        }
    }
    let all = asked.len() + panels.len();
    println!("{} passed, {wrong} failed, after {} s", all - wrong, started.elapsed().as_secs());
    if !extent.full {
        let left_out = (queries.len() - asked.len(), expressions.len() - panels.len());
        println!(
            "left to --full: {} queries, {} expressions of dashboards, the other Collector configurations, docker-compose.yml",
            left_out.0, left_out.1
        );
    }
    let keys = shapes::mapping(workspace, stack.backends["elasticsearch"].port)?;
    let mut shapes = vec![format!("types: {keys} fields of Elasticsearch, each as the registry says")];
    if let Some(loki) = stack.backends.get("loki") {
        shapes.push(format!("streams: {} of Loki, one for each service", shapes::streams(loki.port)?));
    }
    println!("{}", shapes.join("\n"));
    let ledger = stack.stop()?;
    ledger.check()?;
    if wrong > 0 {
        bail!("{wrong} answers are not what the workload did");
    }
    if extent.full {
        std::fs::write(workspace.path(DOCUMENT), queries::with_answers(&document, &answers))
            .with_context(|| format!("writing {DOCUMENT}"))?;
        let mut figures = vec![
            format!("configurations: {configurations}, each read by its Collector"),
            format!(
                "queries: {} of {} backends, each answered by what the workload did",
                asked.len(),
                backends_of(&asked)
            ),
            format!("panels: {} expressions, each shows what it should", panels.len()),
            format!("records: {}", ledger.records()?),
        ];
        figures.extend(shapes);
        let folder = tempfile::tempdir().context("no temporary folder")?;
        figures.extend(compose::run(workspace, folder.path())?);
        println!("{}", figures.join("\n"));
        results::write(workspace, "backends", "What backends show", &[], &figures.join("\n"))?;
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

/// Asks until the answer is right, and returns the row that makes it so.
fn answer(
    stack: &mut Stack,
    workload: &mut Workload,
    query: &Query,
    connection: &Connection,
) -> Result<Option<Row>> {
    stack.until_right(workload, &query.backend, |port, workload| {
        let rows = ask::ask(&query.backend, port, &query.with(&values(query, workload, connection))?)?;
        let expected = Truth::of(workload, connection)?.expected();
        expected::check(&expected, &query.backend, &query.question, &rows)
    })
}

/// Asks until a panel shows what it should.
fn shows(stack: &mut Stack, workload: &mut Workload, expression: &Expression) -> Result<()> {
    stack.until_right(workload, &expression.backend, |port, _| {
        dashboards::check(expression, &ask::ask(&expression.backend, port, &expression.text)?)
    })
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
