//! What each panel of the dashboards has to show: a row with what the workload's servers say of themselves.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};

use super::{
    answer::{LINE, Row},
    dashboards::Expression,
    expected::{LOOPBACK, Truth, pid, port, service, some, waited_most},
    fact::{
        Fact,
        Fact::{Is, Within},
        {self},
    },
    workload::PORTS,
};

/// Shown only while records wait for a destination that is away.
const SPOOL: (&str, &str) = ("On the way", "spool");

/// What a panel shows of the whole of a run in which so many events are lost in a ring; nothing of a panel that is not of losses.
pub(super) fn lost(expression: &Expression, ring: u32) -> Option<RangeInclusive<f64>> {
    match expression.panel.as_str() {
        "Lost in the kernel" => Some(f64::from(ring)..=f64::from(ring)),
        "Lost in the agent" => Some(0.0..=0.0),
        "Not delivered" | "Not delivered, by reason" => Some(1.0..=f64::INFINITY),
        _ => None,
    }
}

/// Whether there are rows, and all within that.
pub(super) fn check_lost(lost: &RangeInclusive<f64>, rows: &[Row]) -> Result<()> {
    let number = |row: &Row| row.get("value").and_then(|value| value.parse::<f64>().ok());
    if rows.is_empty() || !rows.iter().all(|row| number(row).is_some_and(|number| lost.contains(&number))) {
        bail!("{lost:?} were lost, and it shows {rows:?}");
    }
    Ok(())
}

/// Whether an answer is what the panel should show now.
pub(super) fn check(truth: &Truth<'_>, expression: &Expression, rows: &[Row]) -> Result<()> {
    let Expression { panel, reference, .. } = expression;
    if rows.is_empty() && (panel.as_str(), reference.as_str()) == SPOOL {
        return Ok(());
    }
    let facts = facts(truth, panel, reference)
        .context("nothing is known of what this panel should show: add it to panels.rs")?;
    fact::find(&facts, rows).map(drop)
}

fn is(name: &'static str, value: &str) -> Fact {
    Is(name, value.to_owned())
}

/// Nothing of a panel that nobody knows.
fn facts(truth: &Truth<'_>, panel: &str, reference: &str) -> Option<Vec<Fact>> {
    listeners(truth, panel, reference).or_else(|| accepts(truth, panel)).or_else(|| agent(panel, reference))
}

fn listeners(truth: &Truth<'_>, panel: &str, reference: &str) -> Option<Vec<Fact>> {
    let workload = truth.workload;
    let facts = match (panel, reference) {
        ("Oldest wait now" | "Dropped, queue full" | "Failed accepts" | "Time in the accept queue", _) => {
            vec![some("value")]
        }
        // The kernel takes one more than the backlog of 1.
        ("Fullest queue now", _) => vec![Within("value", 1.0, 2.0)],
        ("Use of the backlog", _) => {
            vec![service("crowded"), port(workload.crowded.port), Within("value", 1.0, 2.0)]
        }
        ("Oldest wait", _) => vec![service("exhausted"), port(workload.exhausted.port), some("value")],
        ("Accepts by service", _) => vec![service("fast"), some("value")],
        ("Failed accepts by error", "A") => {
            vec![service("exhausted"), is("error_type", "EMFILE"), some("value")]
        }
        ("Time in the accept queue, p50 and p99", _) => {
            vec![service("slow"), Within("value", 0.25, 0.5)]
        }
        // It keeps its connections for eight seconds after the last that it had a descriptor for.
        ("Duration of connections, p50 and p99", _) => {
            vec![service("exhausted"), Within("value", 1.0, 60.0)]
        }
        ("Dropped and abandoned connections", "dropped") => vec![service("crowded"), some("value")],
        ("Dropped and abandoned connections", "abandoned") | ("Open connections", _) => {
            vec![service("exhausted"), some("value")]
        }
        _ => return None,
    };
    Some(facts)
}

fn accepts(truth: &Truth<'_>, panel: &str) -> Option<Vec<Fact>> {
    let slow = &truth.workload.slow;
    let facts = match panel {
        // A rate, of half a second's pauses between its clients.
        "Records of accepts by service" => vec![service("fast"), Within("value", 0.5, 1e3)],
        "Accepts" => vec![truth.peer_ports(), pid(slow.pid), port(slow.port)],
        "Slow accepts" => vec![
            truth.peer_ports(),
            pid(slow.pid),
            port(slow.port),
            waited_most("acceptd_accept_queue_time_ns"),
        ],
        "Top peers" => vec![is(LINE, LOOPBACK)],
        "Most listeners for one peer" => {
            vec![is("network_peer_address", LOOPBACK), Within("value", f64::from(PORTS), 1e3)]
        }
        "Full queues, stalls, abandoned connections" => {
            vec![service("crowded"), is("otel_event_name", "acceptd.listener.overflow")]
        }
        _ => return None,
    };
    Some(facts)
}

fn agent(panel: &str, reference: &str) -> Option<Vec<Fact>> {
    let facts = match (panel, reference) {
        ("Unaccounted for" | "Program runs left out", _) => vec![is("value", "0")],
        // A few seconds of records.
        ("On the way", _) => vec![Within("value", 0.0, 500.0)],
        ("What the programs in the kernel made of each event", _) => {
            vec![is("acceptd_capture_outcome", "submitted"), some("value")]
        }
        ("What the agent made of each event", _) => {
            vec![is("acceptd_pipeline_outcome", "record"), some("value")]
        }
        ("Made and delivered", _) => vec![some("value")],
        ("Requests", _) => vec![is("acceptd_exporter_outcome", "taken"), Within("value", 0.1, 1e3)],
        ("CPU and memory", "cpu") => vec![Within("value", 1e-5, 2.0)],
        ("CPU and memory", "memory") => vec![Within("value", 1e6, 1e9)],
        ("What the agent says of itself", _) => {
            vec![service("acceptd"), is("otel_event_name", "acceptd.agent.started")]
        }
        _ => return None,
    };
    Some(facts)
}
