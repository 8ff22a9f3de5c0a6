//! A long outage of the Collector: the agent's memory stays within its bound, and every record is delivered
//! later (with a spool) or counted as dropped.

use std::{
    thread,
    time::{Duration, Instant},
};

use acceptd_tests::{agent::Agent, inbox::Inbox};
use serde_json::{Value as Json, json};

use crate::{load::Load, sink::Sink};

const RATE: u32 = 2000;

/// The bound on the agent's anonymous memory: its base, `queue.max_bytes`, and requests in flight.
const BOUND_KIB: u64 = 64 << 10;

pub(crate) fn measure(full: bool) -> Json {
    let time = |minutes| if full { Duration::from_mins(minutes) } else { Duration::from_secs(15) };
    json!({ "with_spool": outage(time(10), true), "in_memory": outage(time(2), false) })
}

fn outage(time: Duration, with_spool: bool) -> Json {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = format!("spool.directory={}", folder.path().display());
    let flags: &[&str] =
        if with_spool { &["--set", &directory, "--set", "spool.max_bytes=4GiB"] } else { &[] };
    let sink = Sink::start();
    sink.set_down(true);
    let agent = Agent::sending_to(sink.address, Inbox::default(), flags);
    let load = Load::start(RATE);
    let end = Instant::now() + time;
    let mut peak = 0;
    while Instant::now() < end {
        peak = peak.max(agent.anonymous_kib());
        thread::sleep(Duration::from_millis(200));
    }
    let accepted = load.stop();
    sink.set_down(false);
    // The agent delivers the spool while it stops; the next runs deliver what remains.
    let mut ledgers = vec![agent.terminate()];
    while ledgers.last().expect("at least one")["export"]["spooled"].as_u64() > Some(0) {
        let agent = Agent::sending_to(sink.address, Inbox::default(), flags);
        thread::sleep(Duration::from_secs(2));
        ledgers.push(agent.terminate());
    }
    let total = |term: &str| {
        ledgers.iter().map(|ledger| ledger["export"][term].as_u64().expect("a count")).sum::<u64>()
    };
    let dropped: u64 = ledgers
        .iter()
        .filter_map(|ledger| ledger["export"]["dropped"].as_object())
        .flat_map(|reasons| reasons.values())
        .filter_map(Json::as_u64)
        .sum();
    // A stop does not wait for every answer; the next run sends unacknowledged requests again.
    let again = sink.records() - sink.distinct();
    println!(
        "outage: {} s, {}: {} accepts, {} records, {} acknowledged, {again} arrived again, {dropped} dropped; anonymous memory {peak} KiB at most, the bound is {BOUND_KIB}",
        time.as_secs(),
        if with_spool { "with a spool" } else { "in memory" },
        accepted.len(),
        total("records"),
        total("acknowledged"),
    );
    assert!(peak < BOUND_KIB, "{peak} KiB");
    assert_eq!(total("records"), total("acknowledged") + dropped, "{ledgers:?}");
    assert_eq!(total("records"), sink.distinct() + dropped, "{ledgers:?}");
    if with_spool {
        assert_eq!(dropped, 0, "{ledgers:?}");
        assert_eq!(sink.missing(&accepted).len(), 0);
    }
    json!({
        "seconds": time.as_secs(), "accepts": accepted.len(), "records": total("records"),
        "acknowledged": total("acknowledged"), "arrived_again": again, "dropped": dropped, "rss_anon_peak_kib": peak, "bound_kib": BOUND_KIB,
    })
}
