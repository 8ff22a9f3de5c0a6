//! Runs docker-compose.yml with a real Docker engine and the real Compose. Checks what a user sees after
//! `docker compose up`, and that `docker compose down` removes every container, volume and network. The suite
//! makes the images itself; tests/compose/override.yml removes the services whose images it cannot make.

mod files;
mod project;
mod refusals;
mod store;

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use project::{ELASTIC, Project, TWO_MINUTES, poll};
use store::{ELASTICSEARCH, LOKI, Store, VICTORIALOGS};
use xtask_support::{External, command};

use super::{answer::Row, environment::Environment, images, stack::create_folder};
use crate::{docker::Engine, suite::Suite};

/// How long a record may take from the accept to a store: the agent batches for a second, the Collector for
/// less.
const DELIVERY: Duration = Duration::from_secs(5);

/// How long a client of the slow server waits, in nanoseconds: 300 ms, and longer on a machine that starts
/// twenty containers.
const WAITED_NS: std::ops::RangeInclusive<f64> = 299e6..=500e6;

/// Runs and checks the services: all of them, or without `full` those whose programs the quick suite builds.
/// Returns lines to report.
pub(super) fn run(suite: &Suite, folder: &Path, full: bool) -> Result<Vec<String>> {
    let environment = Environment::read(suite)?;
    let engine = Engine::start(&folder.join("docker"), true)?;
    let scratch = create_folder(folder.join("images"))?;
    images::make(suite, &engine, &environment, &scratch, full)?;
    let mut project = Project {
        folder,
        root: suite.workspace.root(),
        compose: suite.external(External::Compose)?,
        engine: &engine,
        environment,
        full,
        profile: VICTORIALOGS.name,
    };
    let mut lines = with_profile(&mut project, VICTORIALOGS.name, |project| {
        let mut lines = vec![refusals::run(project)?];
        lines.extend(check(project)?);
        Ok(lines)
    })?;
    if full {
        lines.extend(with_profile(&mut project, ELASTIC, |project| {
            project.start(&[])?;
            let mut lines = check_stored(project, &ELASTICSEARCH)?;
            lines.push(check_outage(project, &ELASTICSEARCH)?);
            Ok(lines)
        })?);
    }
    engine.stop()?;
    Ok(lines)
}

/// Runs a check with this profile active, and `docker compose down` afterwards, also if the check fails.
fn with_profile(
    project: &mut Project<'_>,
    profile: &'static str,
    check: impl FnOnce(&Project<'_>) -> Result<Vec<String>>,
) -> Result<Vec<String>> {
    project.profile = profile;
    let lines = check(project);
    if lines.is_err() {
        // `down` removes the containers, and with them what these commands show.
        _ = command::run(project.compose(&["ps", "--all"]));
        _ = command::run(project.compose(&["logs", "--tail", "20"]));
    }
    let removed = project.down();
    let lines = lines?;
    removed.map(|()| lines)
}

fn check(project: &Project<'_>) -> Result<Vec<String>> {
    files::check(project)?;
    let started = Instant::now();
    // Loki stays down, to test that a store may be down at the start; with --full it is started later.
    project.start(&[LOKI.name])?;
    let mut lines = check_stored(project, &VICTORIALOGS)?;
    let waited = started.elapsed();
    ensure!(waited < TWO_MINUTES, "the first record was found {waited:?} after `up`");
    lines.push(format!("compose: {} s from `up` to that record", waited.as_secs()));
    project.wait_for_lines(LOKI.watched_by, &LOKI.down_message(), 1)?;
    if project.full {
        lines.push(check_late_start(project, &LOKI)?);
        lines.extend(check_stored(project, &LOKI)?);
        check_counters(project)?;
    }
    lines.push(check_outage(project, if project.full { &LOKI } else { &VICTORIALOGS })?);
    Ok(lines)
}

/// Finds the record of a client of the slow server in a store, and checks how long the client waited. With
/// `--full`, also finds the trace of that record in Jaeger.
fn check_stored(project: &Project<'_>, store: &Store) -> Result<Vec<String>> {
    let (id, pid) = project.container("slow")?;
    // Asks for the newest client: the agent has no record of clients that came before it captured.
    let what = format!("the record of a client of the slow server in {}", store.title);
    let record = poll(&what, || {
        let Some(peer) = project.accepted("slow")?.pop() else { return Ok(None) };
        let is_wanted =
            |row: &Row| row.get("container_id") == Some(&id) && row.get("process_pid") == Some(&pid);
        sleep(DELIVERY);
        project.row(store.name, store.port, &(store.query)(&peer), is_wanted)
    })?;
    let waited = record.get("acceptd_accept_queue_time_ns").and_then(|text| text.parse().ok()).unwrap_or(0.0);
    ensure!(WAITED_NS.contains(&waited), "a client of the slow server waited {waited} ns: {record:?}");
    let mut lines = vec![format!(
        "compose: a client of the slow server waited {:.1} ms, by its record in {}",
        waited / 1e6,
        store.title
    )];
    if project.full {
        let trace = record.get("trace_id").context("the record has no trace id")?;
        poll("its trace in Jaeger", || {
            project.row("jaeger", "JAEGER_PORT", &format!("GET /api/traces/{trace}"), |row| {
                row.get("name").is_some_and(|name| name == "accept queue")
                    && row.get("process_pid") == Some(&pid)
            })
        })?;
        lines.push(format!("compose: the ids of its record in {} open its trace in Jaeger", store.title));
    }
    Ok(lines)
}

/// Checks that Prometheus counts accepts of each server, and that the service `backends` shows the user the
/// address of Jaeger.
fn check_counters(project: &Project<'_>) -> Result<()> {
    for service in ["fast", "slow", "crowded", "exhausted", "unix"] {
        let query = format!("sum(acceptd_listener_accepts_total{{acceptd_listener_service=\"{service}\"}})");
        let is_counted = |row: &Row| row.get("value").is_some_and(|value| value != "0");
        poll(&format!("Prometheus to count accepts of {service}"), || {
            project.row("prometheus", "PROMETHEUS_PORT", &query, is_counted)
        })?;
    }
    let url = format!("Jaeger: http://localhost:{}", project.environment.value("JAEGER_PORT")?);
    project.wait_for_lines("backends", &url, 1)
}

/// Stops and starts a store. Checks that the watching service shows both to the user, and that a record of an
/// accept during the outage is delivered.
fn check_outage(project: &Project<'_>, store: &Store) -> Result<String> {
    let down_message = store.down_message();
    let down = project.count_lines(store.watched_by, &down_message)?;
    let back = project.count_lines(store.watched_by, store.back_message)?;
    command::run(project.compose(&["stop", store.name]))?;
    project.wait_for_lines(store.watched_by, &down_message, down + 1)?;
    let missed = wait_for_client(project, store)?;
    command::run(project.compose(&["start", store.name]))?;
    project.wait_for_lines(store.watched_by, store.back_message, back + 1)?;
    wait_for_record(project, store, &missed)?;
    Ok(format!("compose: a record of the time in which {} was away is there", store.title))
}

/// Starts a store that was down from the beginning. Checks that a record of an accept before that is
/// delivered.
fn check_late_start(project: &Project<'_>, store: &Store) -> Result<String> {
    let missed = wait_for_client(project, store)?;
    project.start_services(&[store.name.to_owned()])?;
    project.wait_for_lines(store.watched_by, store.back_message, 1)?;
    wait_for_record(project, store, &missed)?;
    Ok(format!("compose: {} was down at the start; a record of before it came is there", store.title))
}

/// Waits for the next client of the slow server while a store is down. Returns its port.
fn wait_for_client(project: &Project<'_>, store: &Store) -> Result<String> {
    let before = project.accepted("slow")?.len();
    poll(&format!("a client while {} is down", store.title), || {
        Ok(project.accepted("slow")?.get(before).cloned())
    })
}

/// Waits until a store has the record of the client with the port `peer`.
fn wait_for_record(project: &Project<'_>, store: &Store, peer: &str) -> Result<()> {
    let (_, pid) = project.container("slow")?;
    poll(&format!("the record of a client that came while {} was down", store.title), || {
        project.row(store.name, store.port, &(store.query)(peer), |row| row.get("process_pid") == Some(&pid))
    })
    .map(drop)
}
