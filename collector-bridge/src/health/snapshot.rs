//! Everything that the agent knows of itself at one moment: the input of `/status`, the metrics and the
//! summary.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use acceptd_otlp::{Exporter, LedgerSnapshot};

use crate::{
    bpf::CaptureMode,
    health::{cost::Cost, summary::Summary},
    pipeline::{
        NamedExporter, NamedLedger,
        handle::{CounterSnapshot, DrainHandle},
    },
};

/// Where a [`HealthSnapshot`] comes from. Shared by everything that shows the agent's state.
#[derive(Debug)]
pub(crate) struct HealthSource {
    capture: CaptureMode,
    drain: Arc<DrainHandle>,
    /// The exporters of log records.
    exporters: Vec<NamedExporter>,
    /// The exporter of spans.
    traces: Option<Exporter>,
    /// The exporter of the agent's own metrics.
    metrics: Option<Exporter>,
    started: Instant,
    stopping: AtomicBool,
}

/// The state of the agent at one moment.
#[derive(Debug, Clone)]
pub(crate) struct HealthSnapshot {
    /// The counters of the path up to the exporters.
    pub(crate) counters: CounterSnapshot,
    /// How accepts are captured.
    pub(crate) capture: CaptureMode,
    /// The ledgers of log records, by destination.
    pub(crate) destinations: Vec<NamedLedger>,
    /// The ledger of spans; `None` if none are sent.
    pub(crate) traces: Option<LedgerSnapshot>,
    /// The ledger of the agent's own metrics; `None` if none are sent.
    pub(crate) metrics: Option<LedgerSnapshot>,
    /// Problems of the exporters at this moment, in words.
    pub(crate) troubles: Vec<String>,
    /// How long ago the drain thread ended its last round.
    pub(crate) since_last_round: Duration,
    /// Time since the start.
    pub(crate) uptime: Duration,
    /// Whether the agent is stopping.
    pub(crate) stopping: bool,
    /// CPU time and memory of the agent.
    pub(crate) cost: Cost,
}

impl HealthSource {
    /// The source of an agent that starts now.
    #[must_use]
    pub(crate) fn new(
        capture: &CaptureMode,
        drain: &Arc<DrainHandle>,
        exporters: &[NamedExporter],
        traces: Option<&Exporter>,
        metrics: Option<&Exporter>,
    ) -> Self {
        Self {
            capture: capture.clone(),
            drain: Arc::clone(drain),
            exporters: exporters.to_vec(),
            traces: traces.cloned(),
            metrics: metrics.cloned(),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Notes that the agent is stopping: from now on it is not ready.
    pub(crate) fn mark_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Takes a snapshot. The counters are all of one moment, at most a second ago; the ledgers are of now.
    #[must_use]
    pub(crate) fn snapshot(&self) -> HealthSnapshot {
        let exporters = self.exporters.iter().map(|named| &named.exporter);
        let exporters = exporters.chain(&self.traces).chain(&self.metrics);
        let counters = self.drain.counters();
        HealthSnapshot {
            destinations: self.exporters.iter().map(NamedExporter::ledger).collect(),
            capture: self.capture.clone().without(&counters.missing),
            counters,
            traces: self.traces.as_ref().map(Exporter::ledger),
            metrics: self.metrics.as_ref().map(Exporter::ledger),
            troubles: exporters.flat_map(Exporter::troubles).collect(),
            since_last_round: self.drain.since_last_round(),
            uptime: self.started.elapsed(),
            stopping: self.stopping.load(Ordering::Acquire),
            cost: Cost::measure(),
        }
    }
}

impl HealthSnapshot {
    /// The summary of this moment.
    #[must_use]
    pub(crate) fn summary(&self) -> Summary {
        let (traces, metrics) = (self.traces.clone(), self.metrics.clone());
        Summary::new(self.capture.clone(), &self.counters, &self.destinations, traces, metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bpf::{MissingFeature, Tier},
        health::status::{State, Status},
    };

    #[test]
    fn a_feature_that_the_kernel_refuses_later_makes_the_agent_degraded() {
        let drain = Arc::new(DrainHandle::default());
        drain.end_round();
        let capture = CaptureMode { tier: Tier::One, because: None, missing: Vec::new() };
        let source = HealthSource::new(&capture, &drain, &[], None, None);
        assert_eq!(Status::from_snapshot(&source.snapshot()).state, State::Ok);
        let (hook, feature, reason) = ("h", "what a module does", "no kprobes".to_owned());
        let missing = vec![MissingFeature { hook, feature, reason, remedy: None, at_start: false }];
        drain.publish(CounterSnapshot { missing, ..CounterSnapshot::default() });
        let status = Status::from_snapshot(&source.snapshot());
        assert_eq!(status.state, State::Degraded);
        assert_eq!(status.reasons, ["without what a module does: no kprobes"]);
    }
}
