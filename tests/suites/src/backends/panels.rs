//! The expected values of each dashboard panel, derived from the processes, ports and logs of the workload's
//! servers.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};

use super::{
    answer::{LINE, Row},
    dashboards::Expression,
    expectation::{
        self, Expectation,
        Expectation::{Is, Within},
    },
    expected::{LOOPBACK, RunFacts, at_least_one, longest_slow_wait, pid, port, service},
    workload::PORTS,
};

/// The panel and reference of an expression that has values only while records wait for an unreachable
/// destination.
const SPOOL: (&str, &str) = ("Waiting to be delivered", "spool");

/// The range of values that a panel of losses must show for the whole run, in which `lost_in_ring` events
/// were lost in the ring buffer. `None` for panels that do not show losses.
pub(super) fn expected_losses(expression: &Expression, lost_in_ring: u32) -> Option<RangeInclusive<f64>> {
    match expression.panel.as_str() {
        "Lost in the kernel" => Some(f64::from(lost_in_ring)..=f64::from(lost_in_ring)),
        "Lost in the agent" => Some(0.0..=0.0),
        "Not delivered" | "Not delivered, by reason" => Some(1.0..=f64::INFINITY),
        _ => None,
    }
}

/// Checks that a panel of losses has rows, and that all their values are in the range.
pub(super) fn check_losses(expected: &RangeInclusive<f64>, rows: &[Row]) -> Result<()> {
    let number = |row: &Row| row.get("value").and_then(|value| value.parse::<f64>().ok());
    if rows.is_empty() || !rows.iter().all(|row| number(row).is_some_and(|number| expected.contains(&number)))
    {
        bail!("{expected:?} were lost, but the panel shows {rows:?}");
    }
    Ok(())
}

/// Checks that the answer to a panel's expression meets the panel's expectations.
pub(super) fn check(run: &RunFacts<'_>, expression: &Expression, rows: &[Row]) -> Result<()> {
    let Expression { panel, reference, .. } = expression;
    if rows.is_empty() && (panel.as_str(), reference.as_str()) == SPOOL {
        return Ok(());
    }
    let expectations = expectations(run, panel, reference)
        .context("this panel has no expectation: add it to tests/suites/src/backends/panels.rs")?;
    expectation::find(&expectations, rows).map(drop)
}

fn is(name: &'static str, value: &str) -> Expectation {
    Is(name, value.to_owned())
}

/// The expectations of the expression `reference` of a panel; `None` for an unknown panel.
fn expectations(run: &RunFacts<'_>, panel: &str, reference: &str) -> Option<Vec<Expectation>> {
    listeners(run, panel, reference).or_else(|| accepts(run, panel)).or_else(|| agent(panel, reference))
}

fn listeners(run: &RunFacts<'_>, panel: &str, reference: &str) -> Option<Vec<Expectation>> {
    let workload = run.workload;
    let expectations = match (panel, reference) {
        ("Oldest wait now" | "Dropped, queue full" | "Failed accepts" | "Time in the accept queue", _) => {
            vec![at_least_one("value")]
        }
        // The kernel queues one connection more than the backlog of 1.
        ("Fullest queue now", _) => vec![Within("value", 1.0, 2.0)],
        ("Use of the backlog", _) => {
            vec![service("crowded"), port(workload.crowded.port), Within("value", 1.0, 2.0)]
        }
        ("Oldest wait", _) => {
            vec![service("exhausted"), port(workload.exhausted.port), at_least_one("value")]
        }
        ("Accepts by service", _) => vec![service("fast"), at_least_one("value")],
        ("Failed accepts by error", "A") => {
            vec![service("exhausted"), is("error_type", "EMFILE"), at_least_one("value")]
        }
        ("Time in the accept queue, p50 and p99", _) => {
            vec![service("slow"), Within("value", 0.25, 0.5)]
        }
        // The server holds its connections for eight seconds after it has used up its descriptors.
        ("Duration of connections, p50 and p99", _) => {
            vec![service("exhausted"), Within("value", 1.0, 60.0)]
        }
        ("Dropped and abandoned connections", "dropped") => vec![service("crowded"), at_least_one("value")],
        ("Dropped and abandoned connections", "abandoned") | ("Open connections", _) => {
            vec![service("exhausted"), at_least_one("value")]
        }
        _ => return None,
    };
    Some(expectations)
}

fn accepts(run: &RunFacts<'_>, panel: &str) -> Option<Vec<Expectation>> {
    let slow = &run.workload.slow;
    let expectations = match panel {
        // A rate per second: a client connects every half second.
        "Records of accepts by service" => vec![service("fast"), Within("value", 0.5, 1e3)],
        "Accepts" => vec![run.peer_ports(), pid(slow.pid), port(slow.port)],
        "Slow accepts" => vec![
            run.peer_ports(),
            pid(slow.pid),
            port(slow.port),
            longest_slow_wait("acceptd_accept_queue_time_ns"),
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
    Some(expectations)
}

fn agent(panel: &str, reference: &str) -> Option<Vec<Expectation>> {
    let expectations = match (panel, reference) {
        ("Unaccounted for" | "Skipped program runs", _) => vec![is("value", "0")],
        // The records of a few seconds, which are still queued or in flight.
        ("Waiting to be delivered", _) => vec![Within("value", 0.0, 500.0)],
        ("Outcomes of events in the kernel", _) => {
            vec![is("acceptd_capture_outcome", "submitted"), at_least_one("value")]
        }
        ("Outcomes of events in the agent", _) => {
            vec![is("acceptd_pipeline_outcome", "record"), at_least_one("value")]
        }
        ("Records and spans made and delivered", _) => vec![at_least_one("value")],
        ("Requests", _) => vec![is("acceptd_exporter_outcome", "taken"), Within("value", 0.1, 1e3)],
        ("CPU and memory", "cpu") => vec![Within("value", 1e-5, 2.0)],
        ("CPU and memory", "memory") => vec![Within("value", 1e6, 1e9)],
        ("Starts, stops and losses of the agent", _) => {
            vec![service("acceptd"), is("otel_event_name", "acceptd.agent.started")]
        }
        _ => return None,
    };
    Some(expectations)
}
