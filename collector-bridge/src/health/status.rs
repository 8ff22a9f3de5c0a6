//! The verdict on a snapshot: whether the agent is alive, whether it is ready, and what is wrong. No I/O.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    health::snapshot::HealthSnapshot,
    listener::series::{MAX_SERIES, MAX_UNIX_SERIES, Series},
};

/// How long the drain thread may take for one round. It ends several rounds a second while it works.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The state of the agent in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Everything works.
    Ok,
    /// The agent captures, but a feature is missing or events were lost: the reasons say which.
    Degraded,
    /// The agent captures nothing: the reasons say why.
    Failed,
}

/// The document that `/status` and `acceptd status` show.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The agent's version.
    pub(crate) version: String,
    /// The state in one word.
    pub(crate) state: State,
    /// Why the state is not ok, in words.
    pub(crate) reasons: Vec<String>,
    /// Seconds since the start.
    pub(crate) uptime_s: u64,
    /// Resident memory, in bytes.
    pub(crate) resident_bytes: u64,
    /// The ledger of this moment, in the form of the summary at the end of a run.
    pub(crate) ledger: Json,
}

impl Status {
    /// The status that a snapshot shows.
    #[must_use]
    pub(crate) fn from_snapshot(snapshot: &HealthSnapshot) -> Self {
        let failures = readiness_failures(snapshot);
        let degradations = degradations(snapshot);
        let state = match (failures.is_empty(), degradations.is_empty()) {
            (false, _) => State::Failed,
            (true, false) => State::Degraded,
            (true, true) => State::Ok,
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state,
            reasons: [failures, degradations].concat(),
            uptime_s: snapshot.uptime.as_secs(),
            resident_bytes: snapshot.cost.resident,
            ledger: serde_json::to_value(snapshot.summary()).unwrap_or_default(),
        }
    }
}

/// Why the agent has to be restarted; `None` while it is alive. An agent that is stopping is alive: the stop
/// may take as long as `shutdown.timeout` says.
#[must_use]
pub(crate) fn liveness_failure(snapshot: &HealthSnapshot) -> Option<String> {
    let since = snapshot.since_last_round;
    (since >= STUCK_AFTER && !snapshot.stopping).then(|| {
        format!("the thread that reads events has been stuck for {} s: restart the agent", since.as_secs())
    })
}

/// Why the agent captures nothing; empty while it is ready.
#[must_use]
pub(crate) fn readiness_failures(snapshot: &HealthSnapshot) -> Vec<String> {
    let stopping = snapshot.stopping.then(|| "the agent is stopping".to_owned());
    liveness_failure(snapshot).into_iter().chain(stopping).collect()
}

/// Missing features, losses within the last minute, and problems of the exporters.
fn degradations(snapshot: &HealthSnapshot) -> Vec<String> {
    let capture = &snapshot.capture;
    let because = capture.because.iter().map(|because| format!("{} only: {because}", capture.tier));
    let missing = capture.missing.iter().filter(|missing| !missing.at_start).map(ToString::to_string);
    let missing = missing.chain(snapshot.counters.failing.iter().cloned());
    let lost = snapshot.counters.lost.iter().map(|lost| {
        let at =
            lost.destination.as_ref().map(|name| format!(" at the destination {name}")).unwrap_or_default();
        format!("{} events lost within the last minute{at}: {}", lost.count, lost.reason)
    });
    let shared = snapshot.counters.listeners.iter().find(|series| series.labels.is_none());
    let crowded = shared.filter(|series| series.listeners > 0).map(|Series { listeners, .. }| {
        format!(
            "{listeners} listeners have no metrics of their own, only together: all {MAX_SERIES} series, or the {MAX_UNIX_SERIES} of UNIX sockets, are in use"
        )
    });
    because.chain(missing).chain(lost).chain(crowded).chain(snapshot.troubles.iter().cloned()).collect()
}

/// The text that `acceptd status` prints.
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
        let mut counts = Vec::new();
        collect_counts("", &self.ledger, &mut counts);
        let mut last_group = "";
        for (path, count) in &counts {
            let (group, term) = path.split_once('.').unwrap_or(("", path));
            if group != last_group {
                writeln!(out, "{group}")?;
                last_group = group;
            }
            writeln!(out, "  {term:<32} {count:>14}")?;
        }
        Ok(())
    }
}

/// Adds every count of the ledger that is not 0, with its path.
fn collect_counts(path: &str, json: &Json, counts: &mut Vec<(String, u64)>) {
    match json {
        Json::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect_counts(&path, member, counts);
            }
        }
        Json::Number(count) => {
            let count = count.as_u64().filter(|count| *count > 0);
            counts.extend(count.map(|count| (path.to_owned(), count)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounting::gaps::LossTotal,
        bpf::{CaptureMode, MissingFeature, Tier},
        health::cost::Cost,
        listener::series::{Labels, SeriesTable},
        pipeline::handle::CounterSnapshot,
    };

    fn snapshot() -> HealthSnapshot {
        HealthSnapshot {
            counters: CounterSnapshot::default(),
            capture: CaptureMode { tier: Tier::One, because: None, missing: Vec::new() },
            destinations: Vec::new(),
            traces: None,
            metrics: None,
            troubles: Vec::new(),
            since_last_round: Duration::from_millis(100),
            uptime: Duration::from_secs(9),
            stopping: false,
            cost: Cost::default(),
        }
    }

    #[test]
    fn each_weakness_is_a_reason() {
        let status = Status::from_snapshot(&snapshot());
        assert_eq!((status.state, status.reasons.len()), (State::Ok, 0));
        let mut started = snapshot();
        let at_start = |at_start| MissingFeature {
            hook: "h",
            feature: "f",
            reason: "r".to_owned(),
            remedy: None,
            at_start,
        };
        started.capture.missing = vec![at_start(true)];
        assert_eq!(
            Status::from_snapshot(&started).state,
            State::Ok,
            "a feature that concerns only what existed before the start"
        );
        started.capture.missing = vec![at_start(false)];
        assert_eq!(Status::from_snapshot(&started).state, State::Degraded);
        let mut weak = snapshot();
        weak.capture =
            CaptureMode { tier: Tier::Two, because: Some("EPERM".to_owned()), missing: Vec::new() };
        weak.counters.lost = vec![LossTotal { reason: "ring", destination: None, count: 7 }];
        weak.troubles = vec!["the spool is full".to_owned()];
        let status = Status::from_snapshot(&weak);
        assert_eq!(status.state, State::Degraded);
        for (reason, word) in status.reasons.iter().zip(["EPERM", "7 events lost", "spool"]) {
            assert!(reason.contains(word), "{reason}");
        }
        assert_eq!(status.reasons.len(), 3);
    }

    #[test]
    fn listeners_without_a_series_of_their_own_are_a_reason() {
        let mut series = SeriesTable::new(1, Duration::from_mins(1));
        for number in 0..MAX_SERIES + 20 {
            let labels = Labels {
                transport: "tcp",
                network_type: None,
                address: None,
                port: u32::try_from(number).ok(),
                service: String::new(),
                executable: String::new(),
                netns: None,
                container: None,
                pod: None,
            };
            series.assign(number as u64, labels, 0, 1);
        }
        let mut crowded = snapshot();
        crowded.counters.listeners = std::sync::Arc::new(series.snapshot());
        let status = Status::from_snapshot(&crowded);
        assert_eq!(status.state, State::Degraded);
        assert!(status.reasons[0].starts_with("20 listeners have no metrics of their own"), "{status:?}");
    }

    #[test]
    fn a_stuck_agent_fails_liveness_and_a_stopping_agent_does_not() {
        let stuck = HealthSnapshot { since_last_round: STUCK_AFTER, ..snapshot() };
        assert!(liveness_failure(&stuck).is_some());
        assert_eq!(Status::from_snapshot(&stuck).state, State::Failed);
        let stopping = HealthSnapshot { stopping: true, since_last_round: STUCK_AFTER, ..snapshot() };
        assert_eq!((liveness_failure(&stopping), readiness_failures(&stopping).len()), (None, 1));
    }

    #[test]
    fn surveys_that_fail_are_a_reason() {
        let mut failing = snapshot();
        failing.counters.failing = vec!["cannot survey the listeners".to_owned()];
        let status = Status::from_snapshot(&failing);
        assert_eq!((status.state, status.reasons), (State::Degraded, failing.counters.failing));
    }

    #[test]
    fn the_text_shows_the_counts_that_are_not_zero() {
        let mut some = snapshot();
        some.counters.drain.read = 3;
        some.counters.drain.decoded = 3;
        let text = Status::from_snapshot(&some).to_string();
        assert!(text.contains("capture\n") && text.contains("decoded"), "{text}");
        assert!(!text.contains("malformed"), "{text}");
    }
}
