//! `cargo xtask backends`: the demo's workload, the agent, Collectors with the shipped configurations and real backends. Each query of
//! docs/queries.md and each expression of the dashboards is asked there, and the answer held against what the workload's servers say.
//! With `--quick` Elasticsearch and `VictoriaLogs`, with `--full` also Jaeger, Loki and Prometheus.

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
mod expected;
mod fact;
mod gateways;
mod images;
mod kept;
mod late;
mod load;
mod loki;
mod loss;
mod made;
mod panels;
pub(crate) mod pictures;
mod prometheus;
mod queries;
mod questions;
mod refusals;
mod shapes;
mod stack;
#[cfg(test)]
mod versions;
mod victoria_logs;
mod workload;

use std::{collections::HashSet, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use load::Load;
use loss::Loss;
use questions::Questions;
use stack::Stack;
use workload::Workload;

use crate::{Extent, agent, build, host, records::Record, results, workspace::Workspace};

/// Builds `VictoriaLogs` and Compose, while others are built.
pub(crate) fn ahead(workspace: &Workspace) -> Result<()> {
    victoria_logs::ahead(workspace)?;
    compose::ahead(workspace)
}

/// Runs the suite; with `--full` writes the answers into docs/queries.md, and docs/results/backends.md.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    host::require_root("backends")?;
    let questions = Questions::read(workspace)?;
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
    let (mut workload, mut records) = start_workload(&mut stack, &programs, folder.path())?;
    let connection = stack.slow_connection(&mut workload, &mut records)?;
    let loss = Loss::start(&stack, &programs, folder.path())?;
    let answers = questions.ask(&mut stack, &mut workload, &connection, &loss)?;
    let seconds = started.elapsed().as_secs();
    println!("{} passed, {} failed, after {seconds} s", answers.passed, answers.failed);
    let shapes = shapes::of(workspace, &stack.behind)?;
    println!("{}", shapes.join("\n"));
    if answers.failed > 0 {
        bail!("{} answers are not what the workload did", answers.failed);
    }
    let told = format!(
        "losses: {} events of a full ring, and what a destination that is away does not get, each found by its reason",
        loss.ring
    );
    let of_loss = loss.stop(&stack)?;
    if !extent.full {
        let (ledger, behind) = stack.stop_agent()?;
        ledger.check()?;
        behind.stop()?;
        drop(workload);
        println!("{told}");
        println!("{}", compose::run(workspace, folder.path(), false)?.join("\n"));
        println!(
            "left to --full, too: the other Collector configurations, the load, the gateways, Jaeger, Loki and Prometheus of docker-compose.yml"
        );
        return Ok(());
    }
    let mut figures = vec![format!("configurations: {configurations}, each read by its Collector")];
    figures.extend(answers.figures.clone());
    figures.push(told);
    figures.extend(under_load(
        workspace,
        &programs,
        folder.path(),
        stack,
        &mut workload,
        &questions,
        &of_loss,
    )?);
    // Its servers have the names of those in docker-compose.yml.
    drop(workload);
    let folder = tempfile::tempdir().context("no temporary folder")?;
    figures.extend(compose::run(workspace, folder.path(), true)?);
    println!("{}", figures.join("\n"));
    results::write(workspace, "backends", "What backends show", &[], &figures.join("\n"))?;
    // Its queries are a part of what was run, so after that.
    questions.write(workspace, &answers)
}

/// Starts the workload once the agent captures; what it captured by then.
fn start_workload(stack: &mut Stack, programs: &Path, folder: &Path) -> Result<(Workload, Vec<Record>)> {
    let records = agent::wait_until_captures(&mut stack.agent, &mut stack.arrived)?;
    Ok((Workload::start(&programs.join("workload"), folder)?, records))
}

/// The load, to its end and that of the agent; what came late, and through gateways. `others` are records of other agents. Returns what
/// there is to say.
fn under_load(
    workspace: &Workspace,
    programs: &Path,
    folder: &Path,
    mut stack: Stack,
    workload: &mut Workload,
    questions: &Questions,
    others: &HashSet<String>,
) -> Result<Vec<String>> {
    let load = Load::run(&mut stack, &programs.join("workload"), folder)?;
    let top_peers = load.top_peers(&mut stack, workload, questions)?;
    let scanner = Load::scanner(&mut stack, workload, questions)?;
    let records = stack.records.clone();
    let (ledger, mut behind) = stack.stop_agent()?;
    ledger.check()?;
    let mut figures = vec![format!("records: {}", ledger.records()?)];
    figures.extend(load.compare(&mut behind, &ledger, &records, others)?);
    figures.extend([top_peers, scanner]);
    figures.push(late::run(&mut behind, &programs.join("acceptd"), &records, folder)?);
    figures.push(gateways::run(workspace, programs, folder, &mut behind)?);
    // Again, with all that came.
    figures.extend(shapes::of(workspace, &behind)?);
    behind.stop()?;
    Ok(figures)
}
