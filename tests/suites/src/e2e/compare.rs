//! Compares the records that arrived with nginx's log and /proc.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use super::nginx::{Accepted, USER};
use crate::{
    host::{WorkerProcess, worker_process},
    records::Record,
};

/// How much the creation time may differ from /proc's: one tick of its start time, and as much for a slewed
/// clock.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(20);
/// How many missing or surplus connections an error names.
const MAX_NAMED: usize = 5;

/// The facts of the workers that accepted something, from /proc: the workers must still run.
pub(crate) fn workers(expected: &[Accepted]) -> Result<BTreeMap<u32, WorkerProcess>> {
    let pids: BTreeSet<u32> = expected.iter().map(|one| one.pid).collect();
    pids.into_iter().map(|pid| Ok((pid, worker_process(pid)?))).collect()
}

/// The records of the accepts of nginx's workers.
pub(crate) fn nginx_records<'a>(expected: &[Accepted], records: &'a [Record]) -> Vec<&'a Record> {
    let pids: BTreeSet<String> = expected.iter().map(|one| one.pid.to_string()).collect();
    let is_from_nginx =
        |record: &&Record| record.is_accept() && pids.contains(record.resource("process.pid"));
    records.iter().filter(is_from_nginx).collect()
}

/// Fails unless the records are exactly the connections of nginx's log, none missing and none surplus.
pub(crate) fn connections(expected: &[Accepted], records: &[Record]) -> Result<()> {
    let mut balance: BTreeMap<Accepted, i64> = BTreeMap::new();
    for line in expected {
        *balance.entry(line.clone()).or_default() += 1;
    }
    for record in nginx_records(expected, records) {
        *balance.entry(accepted(record)?).or_default() -= 1;
    }
    let missing: Vec<_> = balance.iter().filter(|(_, count)| **count > 0).collect();
    let surplus: Vec<_> = balance.iter().filter(|(_, count)| **count < 0).collect();
    if missing.is_empty() && surplus.is_empty() {
        return Ok(());
    }
    bail!(
        "of {} connections {} are missing and {} are surplus; missing: {:?}; surplus: {:?}",
        expected.len(),
        missing.len(),
        surplus.len(),
        &missing[..missing.len().min(MAX_NAMED)],
        &surplus[..surplus.len().min(MAX_NAMED)],
    );
}

/// Fails unless the Resource of each record describes the worker that accepted.
pub(crate) fn identities(workers: &BTreeMap<u32, WorkerProcess>, records: &[Record]) -> Result<()> {
    for record in records {
        let Some(facts) = record.resource("process.pid").parse().ok().and_then(|pid| workers.get(&pid))
        else {
            continue;
        };
        let path = facts.executable.to_string_lossy();
        let user_id = facts.user_id.to_string();
        for (key, wanted) in [
            ("process.executable.name", "nginx"),
            ("process.executable.path", &path),
            ("process.user.id", &user_id),
            ("process.owner", USER),
            ("service.name", "unknown_service:nginx"),
        ] {
            let found = record.resource(key);
            if found != wanted {
                bail!("{key} is {found:?}, and should be {wanted:?}: {}", record.body);
            }
        }
        let text = record.resource("process.creation.time");
        let created: Timestamp =
            text.parse().with_context(|| format!("process.creation.time is {text:?}"))?;
        let started = Timestamp::UNIX_EPOCH + facts.started;
        if created.duration_since(started).unsigned_abs() > CLOCK_TOLERANCE {
            bail!("process.creation.time is {created}, /proc says {started}: {}", record.body);
        }
    }
    Ok(())
}

fn accepted(record: &Record) -> Result<Accepted> {
    let number =
        |value: &str| value.parse().with_context(|| format!("{value:?} is no port: {}", record.body));
    Ok(Accepted {
        pid: record.resource("process.pid").parse().context("process.pid")?,
        local_address: record.attribute("network.local.address").to_owned(),
        local_port: number(record.attribute("network.local.port"))?,
        peer_address: record.attribute("network.peer.address").to_owned(),
        peer_port: number(record.attribute("network.peer.port"))?,
    })
}
