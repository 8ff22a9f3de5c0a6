//! What arrived against what nginx and /proc say.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use super::nginx::{Accepted, USER};
use crate::{
    host::{ProcessFacts, process_facts},
    records::Record,
};

/// One tick of /proc's start time, and as much again for a slewed clock.
const CLOCKS: Duration = Duration::from_millis(20);
/// How many differing connections an error names.
const NAMED: usize = 5;

/// What /proc says of the workers that accepted something. To be asked while they live.
pub(crate) fn workers(truth: &[Accepted]) -> Result<BTreeMap<u32, ProcessFacts>> {
    let pids: BTreeSet<u32> = truth.iter().map(|one| one.pid).collect();
    pids.into_iter().map(|pid| Ok((pid, process_facts(pid)?))).collect()
}

/// The accepts of nginx's workers.
pub(crate) fn of_nginx<'a>(truth: &[Accepted], records: &'a [Record]) -> Vec<&'a Record> {
    let pids: BTreeSet<String> = truth.iter().map(|one| one.pid.to_string()).collect();
    let is_of = |record: &&Record| record.is_accept() && pids.contains(record.resource("process.pid"));
    records.iter().filter(is_of).collect()
}

/// Fails unless the multisets of connections are equal: none missing, none extra.
pub(crate) fn connections(truth: &[Accepted], records: &[Record]) -> Result<()> {
    let mut balance: BTreeMap<Accepted, i64> = BTreeMap::new();
    for line in truth {
        *balance.entry(line.clone()).or_default() += 1;
    }
    for record in of_nginx(truth, records) {
        *balance.entry(accepted(record)?).or_default() -= 1;
    }
    let missing: Vec<_> = balance.iter().filter(|(_, count)| **count > 0).collect();
    let extra: Vec<_> = balance.iter().filter(|(_, count)| **count < 0).collect();
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    bail!(
        "of {} connections {} are missing and {} are extra; missing: {:?}; extra: {:?}",
        truth.len(),
        missing.len(),
        extra.len(),
        &missing[..missing.len().min(NAMED)],
        &extra[..extra.len().min(NAMED)],
    );
}

/// Fails unless every record's Resource describes the worker that accepted.
pub(crate) fn identities(workers: &BTreeMap<u32, ProcessFacts>, records: &[Record]) -> Result<()> {
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
        if created.duration_since(started).unsigned_abs() > CLOCKS {
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
