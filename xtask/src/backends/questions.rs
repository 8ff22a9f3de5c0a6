//! All questions of docs/queries.md and all expressions of the dashboards, asked and held against what the workload does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use jiff::{Timestamp, ToSpan as _};

use super::{
    ask,
    dashboards::{
        Expression, {self},
    },
    expected::{
        Connection, Expected, Truth, {self},
    },
    loss::Loss,
    panels,
    queries::{
        Query, Values, {self},
    },
    stack::Stack,
    workload::Workload,
};
use crate::workspace::Workspace;

const DOCUMENT: &str = "docs/queries.md";
const DASHBOARDS: &str = "packaging/demo/grafana/dashboards";
/// Names of them in both.
const BACKENDS: [&str; 5] = ["elasticsearch", "jaeger", "loki", "prometheus", "victorialogs"];

/// How far back is asked: the whole run.
pub(super) const RANGE: &str = "30m";

/// What is asked.
pub(super) struct Questions {
    document: String,
    pub(super) queries: Vec<Query>,
    pub(super) expressions: Vec<Expression>,
}

/// What came of it.
pub(super) struct Answers {
    /// By query.
    rows: BTreeMap<String, String>,
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// What there is to say.
    pub(super) figures: [String; 2],
}

impl Questions {
    pub(super) fn read(workspace: &Workspace) -> Result<Self> {
        let document = std::fs::read_to_string(workspace.path(DOCUMENT))
            .with_context(|| format!("reading {DOCUMENT}"))?;
        let queries = queries::read(&document)?;
        let expressions = dashboards::read(&workspace.path(DASHBOARDS))?;
        let of_queries = queries.iter().map(|query| (query.id(), &query.backend));
        let of_panels = expressions.iter().map(|expression| (expression.name.clone(), &expression.backend));
        for (name, backend) in of_queries.chain(of_panels) {
            if !BACKENDS.contains(&backend.as_str()) {
                bail!("{name}: there is no backend {backend}");
            }
        }
        Ok(Self { document, queries, expressions })
    }

    /// Asks those backends that run, and says which of the questions are left.
    pub(super) fn ask(
        &self,
        stack: &mut Stack,
        workload: &mut Workload,
        connection: &Connection,
        loss: &Loss,
    ) -> Result<Answers> {
        let unasked = unasked(&self.queries, &Truth::of(workload, connection, loss)?.expected());
        ensure!(unasked.is_empty(), "{DOCUMENT} lacks {}", unasked.join(", "));
        let (mut answers, mut asked, mut backends, mut shown, mut failed) =
            (BTreeMap::new(), 0, BTreeSet::new(), 0, 0);
        for query in &self.queries {
            if !stack.behind.has(&query.backend) {
                continue;
            }
            asked += 1;
            backends.insert(&query.backend);
            match answer(stack, workload, query, connection, loss) {
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
            if !stack.behind.has(&expression.backend) {
                continue;
            }
            shown += 1;
            if let Err(error) = shows(stack, workload, expression, connection, loss) {
                failed += 1;
                println!("NOT SHOWN: {}: {error:#}", expression.name);
            }
        }
        let left = (self.queries.len() - asked, self.expressions.len() - shown);
        if left != (0, 0) {
            println!("left to --full: {} queries, {} expressions of dashboards", left.0, left.1);
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

    /// Puts the answers into the document, without where this checkout is.
    pub(super) fn write(&self, workspace: &Workspace, answers: &Answers) -> Result<()> {
        let here = format!("{}/", workspace.root().display());
        let written = queries::with_answers(&self.document, &answers.rows).replace(&here, "");
        std::fs::write(workspace.path(DOCUMENT), written).with_context(|| format!("writing {DOCUMENT}"))
    }
}

/// Of what answers are known, and no query is there.
fn unasked(queries: &[Query], known: &[Expected]) -> Vec<String> {
    let asked: BTreeSet<_> = queries.iter().map(Query::id).collect();
    known.iter().flat_map(Expected::ids).filter(|id| !asked.contains(id)).collect()
}

/// Asks until the answer is right, and returns the row that makes it so, a line a column.
fn answer(
    stack: &mut Stack,
    workload: &mut Workload,
    query: &Query,
    connection: &Connection,
    loss: &Loss,
) -> Result<Vec<String>> {
    stack.until_right(workload, &query.backend, |port, workload| {
        let rows = ask::ask(&query.backend, port, &query.with(&values(query, workload, connection))?)?;
        let expected = Truth::of(workload, connection, loss)?.expected();
        expected::check(&expected, &query.backend, &query.question, &rows)
    })
}

/// Asks until a panel shows what it should.
fn shows(
    stack: &mut Stack,
    workload: &mut Workload,
    expression: &Expression,
    connection: &Connection,
    loss: &Loss,
) -> Result<()> {
    stack.until_right(workload, &expression.backend, |port, workload| {
        let ask = |text| ask::ask(&expression.backend, port, text);
        if let Some(lost) = panels::lost(expression, loss.ring) {
            // Of what is more than an interval ago it shows nothing, or zero.
            ask(&expression.text)?;
            return panels::check_lost(&lost, &ask(&expression.whole)?);
        }
        panels::check(&Truth::of(workload, connection, loss)?, expression, &ask(&expression.text)?)
    })
}

/// What the names in a query stand for.
fn values(query: &Query, workload: &Workload, connection: &Connection) -> Values {
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
