//! Sends all queries of docs/queries.md and all expressions of the dashboards to the backends, and checks the
//! answers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use jiff::{Timestamp, ToSpan as _};

use super::{
    ask,
    dashboards::{self, Expression},
    expected::{self, ExpectedAnswer, RunFacts},
    lossy_agent::LossyAgent,
    panels,
    queries::{self, Query, RANGE, Values},
    stack::{SlowConnection, Stack},
    workload::Workload,
};
use crate::suite::Suite;

const DOCUMENT: &str = "docs/queries.md";
const DASHBOARDS: &str = "packaging/demo/grafana/dashboards";
/// The names of the backends, in the document and in the dashboards.
const BACKENDS: [&str; 5] = ["elasticsearch", "jaeger", "loki", "prometheus", "victorialogs"];

/// All queries and dashboard expressions.
pub(super) struct Questions {
    document: String,
    pub(super) queries: Vec<Query>,
    pub(super) expressions: Vec<Expression>,
}

/// The checked answers.
pub(super) struct Answers {
    /// One row of the answer to each query, by the query's id, with a line for each column.
    rows: BTreeMap<String, String>,
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// Lines to report.
    pub(super) figures: [String; 2],
}

impl Questions {
    /// Reads the document and the dashboards.
    pub(super) fn read(suite: &Suite) -> Result<Self> {
        let document =
            std::fs::read_to_string(suite.path(DOCUMENT)).with_context(|| format!("reading {DOCUMENT}"))?;
        let queries = queries::read(&document)?;
        let expressions = dashboards::read(&suite.path(DASHBOARDS))?;
        let from_queries = queries.iter().map(|query| (query.id(), &query.backend));
        let from_panels = expressions.iter().map(|expression| (expression.name.clone(), &expression.backend));
        for (name, backend) in from_queries.chain(from_panels) {
            if !BACKENDS.contains(&backend.as_str()) {
                bail!("{name}: there is no backend {backend}");
            }
        }
        Ok(Self { document, queries, expressions })
    }

    /// Asks the backends that run, and prints how many queries and expressions only `--full` asks. Wrong
    /// answers are printed and counted, and are not an error.
    pub(super) fn ask(
        &self,
        stack: &mut Stack,
        workload: &mut Workload,
        connection: &SlowConnection,
        lossy_agent: &LossyAgent,
    ) -> Result<Answers> {
        let unasked = unasked(&self.queries, &RunFacts::new(workload, connection, lossy_agent)?.expected());
        ensure!(unasked.is_empty(), "{DOCUMENT} lacks {}", unasked.join(", "));
        let (mut answers, mut asked, mut backends, mut shown, mut failed) =
            (BTreeMap::new(), 0, BTreeSet::new(), 0, 0);
        for query in &self.queries {
            if !stack.pipeline.has(&query.backend) {
                continue;
            }
            asked += 1;
            backends.insert(&query.backend);
            match answer(stack, workload, query, connection, lossy_agent) {
                Ok(lines) => {
                    println!("answered: {}", query.id());
                    answers.insert(query.id(), lines.join("\n"));
                }
                Err(error) => {
                    failed += 1;
                    println!("NOT ANSWERED: {}: {error:#}", query.id());
                }
            }
        }
        for expression in &self.expressions {
            if !stack.pipeline.has(&expression.backend) {
                continue;
            }
            shown += 1;
            if let Err(error) = check_panel(stack, workload, expression, connection, lossy_agent) {
                failed += 1;
                println!("NOT SHOWN: {}: {error:#}", expression.name);
            }
        }
        let not_asked = (self.queries.len() - asked, self.expressions.len() - shown);
        if not_asked != (0, 0) {
            println!("only with --full: {} queries, {} expressions of dashboards", not_asked.0, not_asked.1);
        }
        let figures = [
            format!(
                "queries: {asked} of {} backends, each answered by what the workload did",
                backends.len()
            ),
            format!("panels: {shown} expressions, each shows what it should"),
        ];
        Ok(Answers { rows: answers, passed: asked + shown - failed, failed, figures })
    }

    /// Writes the answers into the document, without the path of this checkout.
    pub(super) fn write(&self, suite: &Suite, answers: &Answers) -> Result<()> {
        let here = format!("{}/", suite.workspace.root().display());
        let written = queries::with_answers(&self.document, &answers.rows).replace(&here, "");
        std::fs::write(suite.path(DOCUMENT), written).with_context(|| format!("writing {DOCUMENT}"))
    }
}

/// The ids of the expected answers that have no query in the document.
fn unasked(queries: &[Query], known: &[ExpectedAnswer]) -> Vec<String> {
    let asked: BTreeSet<_> = queries.iter().map(Query::id).collect();
    known.iter().flat_map(ExpectedAnswer::ids).filter(|id| !asked.contains(id)).collect()
}

/// Sends a query until its answer meets the expectations. Returns the row that meets the first one, a line
/// for each column.
fn answer(
    stack: &mut Stack,
    workload: &mut Workload,
    query: &Query,
    connection: &SlowConnection,
    lossy_agent: &LossyAgent,
) -> Result<Vec<String>> {
    stack.until_right(workload, &query.backend, |port, workload| {
        let rows = ask::ask(&query.backend, port, &query.with_values(&values(query, workload, connection))?)?;
        let expected = RunFacts::new(workload, connection, lossy_agent)?.expected();
        expected::check(&expected, &query.backend, &query.question, &rows)
    })
}

/// Sends an expression until the panel shows the expected values.
fn check_panel(
    stack: &mut Stack,
    workload: &mut Workload,
    expression: &Expression,
    connection: &SlowConnection,
    lossy_agent: &LossyAgent,
) -> Result<()> {
    stack.until_right(workload, &expression.backend, |port, workload| {
        let ask = |text| ask::ask(&expression.backend, port, text);
        if let Some(expected) = panels::expected_losses(expression, lossy_agent.lost_in_ring) {
            // With the usual interval the panel may show no value or 0, because the losses are older; so only
            // an error counts.
            ask(&expression.text)?;
            return panels::check_losses(&expected, &ask(&expression.over_whole_run)?);
        }
        panels::check(&RunFacts::new(workload, connection, lossy_agent)?, expression, &ask(&expression.text)?)
    })
}

/// The values of the variables in a query.
fn values(query: &Query, workload: &Workload, connection: &SlowConnection) -> Values {
    let server = if query.question == "backlog" { &workload.crowded } else { &workload.slow };
    let time = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (start, end) = (Timestamp::now() - 30.minutes(), Timestamp::now() + 1.minute());
    Values::from([
        ("service", server.name.to_owned()),
        ("port", server.port.to_string()),
        ("peer", "127.0.0.1".to_owned()),
        ("path", workload.unix.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
        ("trace_id", connection.trace_id.clone()),
        ("range", RANGE.to_owned()),
        ("start", time(start)),
        ("end", time(end)),
        ("start_us", start.as_microsecond().to_string()),
        ("end_us", end.as_microsecond().to_string()),
    ])
}
