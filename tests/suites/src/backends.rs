//! The suite `backends`: runs the demo's workload, the agent, Collectors with the shipped configurations, and
//! real backends. Sends each query of docs/queries.md and each expression of the dashboards to its backend,
//! and compares the answer with what the workload's servers logged. `--quick` runs Elasticsearch and
//! `VictoriaLogs`; `--full` also Jaeger, Loki and Prometheus.

mod answer;
mod ask;
mod backend;
mod charts;
mod compose;
mod configs;
mod crowd;
mod dashboards;
mod elasticsearch;
mod environment;
mod expectation;
mod expected;
mod gateways;
mod images;
mod late;
mod load;
mod loki;
mod lossy_agent;
mod panels;
pub(crate) mod pictures;
mod prometheus;
mod queries;
mod questions;
mod recorded;
mod shapes;
mod stack;
mod stored;
#[cfg(test)]
mod versions;
mod victoria_logs;
mod workload;

use std::{collections::HashSet, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use load::Load;
use lossy_agent::LossyAgent;
use questions::Questions;
use stack::Stack;
use workload::Workload;
use xtask_support::{Extent, results, root};

use crate::suite::Suite;

/// Runs the suite. With `--full`, writes the answers into docs/queries.md and the figures into
/// docs/results/backends.md.
pub(crate) fn run(suite: &Suite, extent: Extent) -> Result<()> {
    root::require("backends")?;
    let questions = Questions::read(suite)?;
    let configurations = configs::validate(suite, extent.full)?;
    println!("{configurations} configurations of Collectors are valid");
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let mut stack =
        if extent.full { Stack::full(suite, folder.path())? } else { Stack::quick(suite, folder.path())? };
    let started = Instant::now();
    let (mut workload, mut records) = stack.start_workload(suite, folder.path())?;
    let connection = stack.slow_connection(&mut workload, &mut records)?;
    let lossy_agent = LossyAgent::start(&stack, suite, folder.path())?;
    let answers = questions.ask(&mut stack, &mut workload, &connection, &lossy_agent)?;
    let seconds = started.elapsed().as_secs();
    println!("{} passed, {} failed, after {seconds} s", answers.passed, answers.failed);
    println!("{}", shapes::check(suite, &stack.pipeline)?.join("\n"));
    if answers.failed > 0 {
        bail!("{} answers do not match what the workload did", answers.failed);
    }
    let losses = format!(
        "losses: {} events of a full ring, and what a destination that is away does not get, each found by its reason",
        lossy_agent.lost_in_ring
    );
    let lossy_uids = lossy_agent.stop(&stack)?;
    if !extent.full {
        let (ledger, pipeline) = stack.stop_agent()?;
        ledger.check()?;
        pipeline.stop()?;
        drop(workload);
        println!("{losses}");
        println!("{}", compose::run(suite, folder.path(), false)?.join("\n"));
        println!(
            "only with --full: the other Collector configurations, the load, the gateways, Jaeger, Loki and Prometheus of docker-compose.yml"
        );
        return Ok(());
    }
    let mut figures = vec![format!("configurations: {configurations}, each read by its Collector")];
    figures.extend(answers.figures.clone());
    figures.push(losses);
    figures.extend(run_load(suite, folder.path(), stack, &mut workload, &questions, &lossy_uids)?);
    // docker-compose.yml starts servers with the same service names as this workload.
    drop(workload);
    let folder = tempfile::tempdir().context("no temporary folder")?;
    figures.extend(compose::run(suite, folder.path(), true)?);
    println!("{}", figures.join("\n"));
    results::write(&suite.workspace, "backends", "What backends show", &[], &figures.join("\n"))?;
    // Written after the results: these record whether tracked files have changed, and docs/queries.md is
    // tracked.
    questions.write(suite, &answers)
}

/// Runs the load and stops the agent, then runs the checks of late records and of gateways. `other_uids` are
/// the uids of records that another agent sent to the same backends. Returns lines to report.
fn run_load(
    suite: &Suite,
    folder: &Path,
    mut stack: Stack,
    workload: &mut Workload,
    questions: &Questions,
    other_uids: &HashSet<String>,
) -> Result<Vec<String>> {
    let load = Load::run(&mut stack, &suite.program("workload"), folder)?;
    let top_peers = load.top_peers(&mut stack, workload, questions)?;
    let scanner = Load::scanner(&mut stack, workload, questions)?;
    let records = stack.records.clone();
    let (ledger, mut pipeline) = stack.stop_agent()?;
    ledger.check()?;
    let mut figures = vec![format!("records: {}", ledger.records()?)];
    figures.extend(load.compare(&mut pipeline, &ledger, &records, other_uids)?);
    figures.extend([top_peers, scanner]);
    figures.push(late::run(&mut pipeline, &suite.program("acceptd"), &records, folder)?);
    figures.push(gateways::run(suite, folder, &mut pipeline)?);
    // Checked a second time, now that the backends have all records.
    figures.extend(shapes::check(suite, &pipeline)?);
    pipeline.stop()?;
    Ok(figures)
}
