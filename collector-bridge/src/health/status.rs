//! How the agent is: whether it lives, whether it is ready, and what ails it. Pure.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::health::snapshot::Reading;

/// The drain thread moves several times a second; after this it is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// In a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything works.
    Ok,
    /// It captures, and something is missing or was lost: the reasons say what.
    Degraded,
    /// It captures nothing: the reasons say why.
    Failed,
}

/// What `/status` and `acceptd status` show.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// How it is.
    pub state: State,
    /// Why it is not ok, in words.
    pub reasons: Vec<String>,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// What was seen, and what became of it: as the agent's last words have it.
    pub ledger: Json,
}

impl Status {
    /// The status of this moment.
    #[must_use]
    pub fn of(reading: &Reading) -> Self {
        let failures = failures(reading);
        let (state, reasons) = match (failures.is_empty(), weaknesses(reading)) {
            (false, weaknesses) => (State::Failed, [failures, weaknesses].concat()),
            (true, weaknesses) if weaknesses.is_empty() => (State::Ok, weaknesses),
            (true, weaknesses) => (State::Degraded, weaknesses),
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state,
            reasons,
            uptime_s: reading.uptime.as_secs(),
            resident_bytes: reading.cost.resident,
            ledger: serde_json::to_value(reading.summary()).unwrap_or_default(),
        }
    }
}

/// Why it should be started anew; nothing while it lives.
#[must_use]
pub fn dead(reading: &Reading) -> Option<String> {
    let still = reading.still;
    // A stop takes the time that shutdown.timeout gives it.
    (still >= STUCK && !reading.stopping)
        .then(|| format!("the thread that reads events has not moved for {} s", still.as_secs()))
}

/// Why it captures nothing.
#[must_use]
pub fn failures(reading: &Reading) -> Vec<String> {
    let stops = reading.stopping.then(|| "the agent stops".to_owned());
    dead(reading).into_iter().chain(stops).collect()
}

fn weaknesses(reading: &Reading) -> Vec<String> {
    let capture = &reading.capture;
    let because = capture.because.iter().map(|because| format!("{} only: {because}", capture.tier));
    let missing = capture.missing.iter().filter(|missing| !missing.at_start).map(ToString::to_string);
    let lost = reading.stock.lost.iter().map(|lost| {
        let at =
            lost.destination.as_ref().map(|name| format!(" at the destination {name}")).unwrap_or_default();
        format!("{} events lost within the last minute{at}: {}", lost.count, lost.reason)
    });
    because.chain(missing).chain(lost).chain(reading.troubles.iter().cloned()).collect()
}

/// For people.
impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Degraded => "degraded",
            State::Failed => "failed",
        };
        let mebibytes = self.resident_bytes >> 20;
        writeln!(out, "acceptd {} {state}, up {} s, {mebibytes} MiB resident", self.version, self.uptime_s)?;
        for reason in &self.reasons {
            writeln!(out, "  {reason}")?;
        }
        let mut parts = Vec::new();
        flatten("", &self.ledger, &mut parts);
        let mut group = "";
        for (name, count) in &parts {
            let (of, term) = name.split_once('.').unwrap_or(("", name));
            if of != group {
                writeln!(out, "{of}")?;
                group = of;
            }
            writeln!(out, "  {term:<32} {count:>14}")?;
        }
        Ok(())
    }
}

/// The counts with the names of their places; those that are 0 say nothing to a person.
fn flatten(place: &str, json: &Json, to: &mut Vec<(String, u64)>) {
    match json {
        Json::Object(members) => {
            for (name, member) in members {
                let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
                flatten(&place, member, to);
            }
        }
        Json::Number(count) => {
            to.extend(count.as_u64().filter(|count| *count > 0).map(|count| (place.to_owned(), count)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounting::gaps::Total,
        bpf::{Capture, Missing, Tier},
        health::cost::Cost,
        pipeline::drain::Stock,
    };

    fn reading() -> Reading {
        Reading {
            stock: Stock::default(),
            capture: Capture { tier: Tier::One, because: None, missing: Vec::new() },
            deliveries: Vec::new(),
            traces: None,
            metrics: None,
            troubles: Vec::new(),
            still: Duration::from_millis(100),
            uptime: Duration::from_secs(9),
            stopping: false,
            cost: Cost::default(),
        }
    }

    #[test]
    fn each_weakness_is_a_reason() {
        let status = Status::of(&reading());
        assert_eq!((status.state, status.reasons.len()), (State::Ok, 0));
        let mut started = reading();
        let at_start =
            |at_start| Missing { hook: "h", feature: "f", reason: "r".to_owned(), remedy: None, at_start };
        started.capture.missing = vec![at_start(true)];
        assert_eq!(Status::of(&started).state, State::Ok, "only what was there before lacks something");
        started.capture.missing = vec![at_start(false)];
        assert_eq!(Status::of(&started).state, State::Degraded);
        let mut weak = reading();
        weak.capture = Capture { tier: Tier::Two, because: Some("EPERM".to_owned()), missing: Vec::new() };
        weak.stock.lost = vec![Total { reason: "ring", destination: None, count: 7 }];
        weak.troubles = vec!["the spool takes nothing".to_owned()];
        let status = Status::of(&weak);
        assert_eq!(status.state, State::Degraded);
        for (reason, word) in status.reasons.iter().zip(["EPERM", "7 events lost", "spool"]) {
            assert!(reason.contains(word), "{reason}");
        }
        assert_eq!(status.reasons.len(), 3);
    }

    #[test]
    fn who_does_not_move_is_dead_and_who_stops_is_not() {
        let stuck = Reading { still: STUCK, ..reading() };
        assert!(dead(&stuck).is_some());
        assert_eq!(Status::of(&stuck).state, State::Failed);
        let stops = Reading { stopping: true, still: STUCK, ..reading() };
        assert_eq!((dead(&stops), failures(&stops).len()), (None, 1));
    }

    #[test]
    fn people_see_the_counts_that_are_not_zero() {
        let mut some = reading();
        some.stock.drain.read = 3;
        some.stock.drain.decoded = 3;
        let text = Status::of(&some).to_string();
        assert!(text.contains("capture\n") && text.contains("decoded"), "{text}");
        assert!(!text.contains("malformed"), "{text}");
    }
}
