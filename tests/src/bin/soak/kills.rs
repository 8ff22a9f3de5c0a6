//! The agent is killed with SIGKILL repeatedly, under load, while the receiver is sometimes down: with a
//! spool no record that is older than the batch and fsync intervals is missing.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use acceptd_tests::{agent::Agent, inbox::Inbox};
use serde_json::{Value as Json, json};

use crate::{
    chance::{below, between},
    load::Load,
    sink::Sink,
};

const RATE: u32 = 800;

/// `batch.timeout` of the agents.
const BATCH: Duration = Duration::from_millis(200);
/// An accept at least this long before a kill must be delivered: a second, and the batch under construction.
const OLD: Duration = Duration::from_millis(1200);

pub(crate) fn measure(full: bool) -> Json {
    let kills = if full { 200 } else { 20 };
    let spool = tempfile::tempdir().expect("a folder");
    let directory = format!("spool.directory={}", spool.path().display());
    let batch = format!("batch.timeout={}ms", BATCH.as_millis());
    let sink = Sink::start();
    let load = Load::start(RATE);
    let start = || {
        let flags = ["--set", &directory, "--set", &batch, "--set", "spool.fsync_interval=100ms"];
        Agent::sending_to(sink.address, Inbox::default(), &flags)
    };
    let mut lives = Vec::new();
    for _ in 0..kills {
        sink.set_down(below(3) == 0);
        let agent = start();
        let born = SystemTime::now();
        thread::sleep(between(Duration::from_millis(200), Duration::from_millis(2800)));
        sink.set_down(below(3) == 0);
        thread::sleep(between(Duration::ZERO, Duration::from_secs(1)));
        let killed = SystemTime::now();
        // Dropping the agent kills it with SIGKILL.
        drop(agent);
        lives.push((born, killed));
    }
    sink.set_down(false);
    let log = load.stop();
    let ledger = start().terminate();
    let must: Vec<_> = log
        .iter()
        .filter(|accept| lives.iter().any(|(born, killed)| accept.at > *born && accept.at + OLD < *killed))
        .collect();
    let missing = sink.missing(must.iter().copied());
    let export = &ledger["export"];
    println!(
        "kills: {kills} of the agent, {} accepts, {} older than {OLD:?} before a kill: {} missing; {} records arrived, {} of them again; {} requests refused; {} recovered at the end",
        log.len(),
        must.len(),
        missing.len(),
        sink.records(),
        sink.again(),
        sink.refused(),
        export["recovered"],
    );
    assert!(must.len() > kills * 200, "the load was too low");
    assert!(sink.refused() > 0, "the receiver was never down");
    assert_eq!(missing.len(), 0, "the first: {:?} of lives {lives:?}", missing.first());
    assert_eq!(export["dropped"], json!({}), "{ledger}");
    assert_eq!(export["spooled"], 0, "{ledger}");
    json!({
        "kills": kills, "accepts": log.len(), "must_arrive": must.len(), "missing": missing.len(),
        "records": sink.records(), "again": sink.again(), "refused_requests": sink.refused(),
    })
}
