//! `acceptd events`: lists the events that the agent can send, the key that enables each, its cost and its
//! attributes.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use acceptd_otlp::names::{self, EVENTS, EventName};
use serde::Serialize;

use crate::{
    config::{Config, EventsSection},
    mapping::presence,
};

/// The part of the catalogue that the event's own definition lacks.
struct Switch {
    event: &'static str,
    /// The key that enables the event; `None` for accepts, which are always enabled.
    key: Option<&'static str>,
    default: fn(&EventsSection) -> bool,
    cost: &'static str,
}

const SWITCHES: [Switch; 12] = [
    Switch {
        event: names::EVENT_ACCEPTD_SOCKET_ACCEPT,
        key: None,
        default: |_| true,
        cost: "one record an accept; a failed one within capture.failure_budget",
    },
    Switch {
        event: names::EVENT_ACCEPTD_SOCKET_LISTEN,
        key: Some("events.listen"),
        default: |events| events.listen,
        cost: "one record a call; seen by the hook of accept",
    },
    Switch {
        event: names::EVENT_ACCEPTD_SOCKET_BIND,
        key: Some("events.bind"),
        default: |events| events.bind,
        cost: "one record a call on a stream or seqpacket socket; seen by the hook of accept",
    },
    Switch {
        event: names::EVENT_ACCEPTD_SOCKET_CREATE,
        key: Some("events.create"),
        default: |events| events.create,
        cost: "one record a stream or seqpacket socket, those of clients too",
    },
    Switch {
        event: names::EVENT_ACCEPTD_SOCKET_ACCEPT_ATTEMPT,
        key: Some("events.accept_attempt"),
        default: |events| events.accept_attempt,
        cost: "in tier 2 a hook on the begin of every system call of the host; one record a call, empty queues too",
    },
    Switch {
        event: names::EVENT_ACCEPTD_LISTENER_FAILURES,
        key: Some("events.failures"),
        default: |events| events.failures,
        cost: "one record for each listener, process, errno and listener.interval with a failure",
    },
    Switch {
        event: names::EVENT_ACCEPTD_LISTENER_OVERFLOW,
        key: Some("events.overflow"),
        default: |events| events.overflow,
        cost: "at most one record for each listener and listener.interval",
    },
    Switch {
        event: names::EVENT_ACCEPTD_LISTENER_ABANDONED,
        key: Some("events.abandoned"),
        default: |events| events.abandoned,
        cost: "one record a connection",
    },
    Switch {
        event: names::EVENT_ACCEPTD_LISTENER_STALLED,
        key: Some("events.stalled"),
        default: |events| events.stalled,
        cost: "two records an episode",
    },
    Switch {
        event: names::EVENT_ACCEPTD_AGENT_STARTED,
        key: Some("events.agent"),
        default: |events| events.agent,
        cost: "one record a start",
    },
    Switch {
        event: names::EVENT_ACCEPTD_AGENT_STOPPED,
        key: Some("events.agent"),
        default: |events| events.agent,
        cost: "one record a stop",
    },
    Switch {
        event: names::EVENT_ACCEPTD_EVENTS_LOST,
        key: Some("events.lost"),
        default: |events| events.lost,
        cost: "none, until something is lost: then one record for each reason and ten seconds",
    },
];

/// One row of the catalogue.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    brief: &'static str,
    default: bool,
    switch: Option<&'static str>,
    tiers: [u8; 2],
    cost: &'static str,
    attributes: Vec<&'static str>,
}

fn catalogue() -> Vec<Row> {
    let defaults = Config::default().events;
    let row = |EventName { name, brief, attributes }: &EventName| {
        let switch = SWITCHES.iter().find(|switch| switch.event == *name)?;
        Some(Row {
            name,
            brief,
            default: (switch.default)(&defaults),
            switch: switch.key,
            // docs/fields.md says which attributes each tier has.
            tiers: [1, 2],
            cost: switch.cost,
            attributes: attributes.iter().map(|attribute| attribute.key).collect(),
        })
    };
    EVENTS.iter().filter_map(row).collect()
}

/// Prints the catalogue.
pub fn run(json: bool) -> ExitCode {
    let rows = catalogue();
    let mut out = io::stdout();
    // If standard output is closed, the error cannot be reported either.
    _ = if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows).unwrap_or_default())
    } else {
        rows.iter().try_for_each(|row| print(&mut out, row))
    };
    ExitCode::SUCCESS
}

/// Prints which attributes an accept has, by the way it was accepted.
pub fn print_fields() -> ExitCode {
    // If standard output is closed, the error cannot be reported either.
    _ = write!(io::stdout(), "{}", presence::markdown());
    ExitCode::SUCCESS
}

fn print(out: &mut impl io::Write, row: &Row) -> io::Result<()> {
    let Row { name, brief, default, switch, cost, attributes, .. } = row;
    writeln!(out, "{name}")?;
    writeln!(out, "    {brief}")?;
    let default = if *default { "on" } else { "off" };
    match switch {
        Some(key) => writeln!(out, "    default {default}; enabled by {key}")?,
        None => writeln!(out, "    always {default}")?,
    }
    writeln!(out, "    tiers   1 (fentry, fexit) and 2 (tracepoints)")?;
    writeln!(out, "    costs   {cost}")?;
    writeln!(out, "    carries {}\n", attributes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_in_the_catalogue_once() {
        assert_eq!(catalogue().len(), EVENTS.len());
        assert_eq!(SWITCHES.len(), EVENTS.len());
    }

    #[test]
    fn every_switch_is_a_key_with_that_default() {
        let text = crate::config::default_file();
        for row in catalogue() {
            if let Some(key) = row.switch {
                let name = key.trim_start_matches("events.");
                assert!(text.contains(&format!("\n#{name} = {}\n", row.default)), "{key}");
            }
        }
    }

    #[test]
    fn an_event_is_printed_with_what_it_carries() {
        let mut out = Vec::new();
        print(&mut out, &catalogue()[0]).expect("writing to a vector cannot fail");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("log.record.uid") && text.contains("always on"), "{text}");
    }
}
