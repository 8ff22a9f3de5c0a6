//! A real Collector is restarted and killed under load: no accept is missing, and repeated records have the
//! same uid.

use std::{path::Path, thread, time::Duration};

use acceptd_tests::{agent::Agent, inbox::Inbox};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

use crate::{collector::Collector, load::Load, sink::Sink};

pub(crate) fn measure(full: bool, binary: &Path) -> Json {
    json!({ "grpc": restarts_over(full, binary, "grpc"), "http": restarts_over(full, binary, "http/protobuf") })
}

/// The signals that stop the Collector, and how long it then stays down.
fn plan(full: bool) -> Vec<(Signal, Duration)> {
    let short = Duration::from_secs(2);
    if full {
        vec![
            (Signal::TERM, short),
            (Signal::KILL, short),
            (Signal::TERM, Duration::from_mins(1)),
            (Signal::TERM, short),
            (Signal::KILL, short),
            (Signal::TERM, short),
            (Signal::TERM, short),
        ]
    } else {
        vec![(Signal::TERM, short), (Signal::KILL, short)]
    }
}

fn restarts_over(full: bool, binary: &Path, protocol: &str) -> Json {
    let (events, rate) = if full { (200_000, 2000) } else { (20_000, 2000) };
    let folder = tempfile::tempdir().expect("a folder");
    let directory = format!("spool.directory={}", folder.path().display());
    let sink = Sink::start();
    let mut collector = Collector::start(binary, sink.address);
    let address = if protocol == "grpc" { collector.grpc } else { collector.http };
    let protocol_flag = format!("export.protocol={protocol}");
    let flags = ["--set", &directory, "--set", &protocol_flag, "--set", "shutdown.timeout=60s"];
    let agent = Agent::sending_to(address, Inbox::default(), &flags);
    let load = Load::start(rate);
    let plan = plan(full);
    let pause = Duration::from_secs(events / u64::from(rate) / (plan.len() as u64 + 1));
    let (mut restarts, mut kills) = (0, 0);
    for (signal, downtime) in plan {
        thread::sleep(pause);
        collector.down(signal);
        thread::sleep(downtime);
        collector.up();
        if signal == Signal::KILL { kills += 1 } else { restarts += 1 }
    }
    while (load.log().len() as u64) < events {
        thread::sleep(Duration::from_millis(500));
    }
    let accepted = load.stop();
    let ledger = agent.terminate();
    let export = &ledger["export"];
    let missing = sink.missing(&accepted).len();
    println!(
        "restarts over {protocol}: {restarts} restarts and {kills} kills of the Collector, {} accepts, {missing} missing, {} records arrived, {} of them again; {export}",
        accepted.len(),
        sink.records(),
        sink.again()
    );
    assert_eq!(missing, 0);
    assert_eq!(export["dropped"], json!({}), "{ledger}");
    assert_eq!(export["acknowledged"].as_u64(), Some(sink.distinct()), "{ledger}");
    json!({
        "restarts": restarts, "kills": kills, "accepts": accepted.len(), "missing": missing,
        "records": sink.distinct(), "again": sink.again(), "retries": export["retries"],
    })
}
