//! `cargo xtask demo`: real connections, and their records as they arrived over OTLP.

mod scene;

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use scene::Connection;
use xtask_support::root;

use crate::{
    agent, host,
    ledger::Ledger,
    process::{Running, until},
    records::{Record, Tail},
    suite::Suite,
};

/// How long a record may take from accept to receiver; the batch timeout is 0.2 s.
const ARRIVAL: Duration = Duration::from_secs(20);
/// How long a program may take to stop: the agent's own deadline for flushing is 5 s.
const STOP: Duration = Duration::from_secs(15);

/// Starts a receiver and the agent, plays the scenes, shows what arrived, and stops both.
pub(crate) fn run(suite: &Suite) -> Result<()> {
    root::require("demo")?;
    let binary = suite.program("acceptd");
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let port = host::free_port()?;
    let received = folder.path().join("received.jsonl");

    eprintln!("starting `acceptd receive` on 127.0.0.1:{port}, and `acceptd run` that sends to it");
    let receiver = receive(&binary, folder.path(), port, &received)?;
    let mut agent = agent::start(&binary, folder.path(), port)?;
    let mut arrived = Tail::new(received);
    agent::wait_until_captures(&mut agent, &mut arrived)?;

    let connections = scene::play()?;
    let records = collect(&mut agent, &mut arrived, &connections)?;
    for (connection, record) in connections.iter().zip(&records) {
        show(connection, record);
    }

    let log = agent.stop(STOP)?;
    receiver.stop(STOP)?;
    println!("\nThe agent's summary:");
    for line in log.lines().filter(|line| line.starts_with("acceptd: ")) {
        println!("  {line}");
    }
    Ledger::from_log(&log)?.check()?;
    println!(
        "\n{} connections made, {} arrived over OTLP; the agent's ledger balances",
        connections.len(),
        records.len()
    );
    Ok(())
}

fn receive(binary: &Path, folder: &Path, port: u16, file: &Path) -> Result<Running> {
    let mut receive = Command::new(binary);
    receive
        .args(["receive", "--listen", &format!("127.0.0.1:{port}"), "--output", "otlp-json", "--file"])
        .arg(file);
    Running::start("acceptd receive", receive, &folder.join("receive.out"), &folder.join("receive.log"))
}

/// Waits for the record of every connection. The error names the connection whose record did not arrive.
fn collect(agent: &mut Running, arrived: &mut Tail, connections: &[Connection]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut found = Vec::new();
    for connection in connections {
        let about = format!("the record of {connection}");
        let record = until(&about, ARRIVAL, || {
            agent.require_alive()?;
            records.extend(arrived.read()?);
            Ok(records.iter().find(|record| connection.is_described_by(record)).cloned())
        })?;
        found.push(record);
    }
    Ok(found)
}

fn show(connection: &Connection, record: &Record) {
    println!("\n{connection}");
    println!("  {} {}", record.event_name, record.attribute("log.record.uid"));
    println!("  {}", record.body);
    let queue = record.attribute("acceptd.accept.queue_time_ns").parse::<u32>().map_or_else(
        |_| "unknown".to_owned(),
        |nanoseconds| format!("{:.3} ms", f64::from(nanoseconds) / 1e6),
    );
    println!(
        "  queue time {queue}; still queued {} of {}; fd {} from listener fd {}; cookie {}; {}",
        record.attribute("acceptd.listener.backlog_length"),
        record.attribute("acceptd.listener.backlog_limit"),
        record.attribute("acceptd.socket.fd"),
        record.attribute("acceptd.listener.fd"),
        record.attribute("acceptd.socket.cookie"),
        record.attribute("acceptd.accept.syscall"),
    );
    println!(
        "  by {} (pid {}, user {}, since {}), service.name {}",
        record.resource("process.executable.path"),
        record.resource("process.pid"),
        record.resource("process.owner"),
        record.resource("process.creation.time"),
        record.resource("service.name"),
    );
}
