//! What the agent knows of itself at one moment: from here come `/status`, its metrics, and its last words.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use acceptd_otlp::{Exporter, LedgerSnapshot, Target};

use crate::{
    bpf::Capture,
    health::{
        cost::{
            Cost, {self},
        },
        summary::Summary,
    },
    pipeline::drain::{Shared, Stock},
};

/// One destination of records.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// Its name in the configuration; `default` is that of `export.*`.
    pub name: String,
    /// The exporter.
    pub exporter: Exporter,
}

/// Where to look.
#[derive(Debug)]
pub struct Vitals {
    capture: Capture,
    shared: Arc<Shared>,
    outlets: Vec<Outlet>,
    /// Of spans.
    traces: Option<Exporter>,
    /// Of the agent's own metrics.
    metrics: Option<Exporter>,
    started: Instant,
    stopping: AtomicBool,
}

/// What was seen there.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What was counted up to the destinations.
    pub stock: Stock,
    /// How accepts are captured.
    pub capture: Capture,
    /// What became of the records, by destination.
    pub deliveries: Vec<Delivery>,
    /// What became of spans.
    pub traces: Option<LedgerSnapshot>,
    /// What became of the agent's own metrics.
    pub metrics: Option<LedgerSnapshot>,
    /// What ails delivery, in words.
    pub troubles: Vec<String>,
    /// For how long the drain thread has not moved.
    pub still: Duration,
    /// Since the start.
    pub uptime: Duration,
    /// Whether the agent ends.
    pub stopping: bool,
    /// What the agent took of the host.
    pub cost: Cost,
}

/// One destination's part of a [`Reading`].
#[derive(Debug, Clone)]
pub struct Delivery {
    /// See [`Outlet`].
    pub name: String,
    /// Where it is by now.
    pub target: Target,
    /// Its ledger.
    pub ledger: LedgerSnapshot,
}

impl Vitals {
    /// The vitals of an agent that starts now.
    #[must_use]
    pub fn new(
        capture: &Capture,
        shared: &Arc<Shared>,
        outlets: &[Outlet],
        traces: Option<&Exporter>,
        metrics: Option<&Exporter>,
    ) -> Self {
        Self {
            capture: capture.clone(),
            shared: Arc::clone(shared),
            outlets: outlets.to_vec(),
            traces: traces.cloned(),
            metrics: metrics.cloned(),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        }
    }

    /// The agent ends.
    pub fn stops(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Looks. What was counted is of one moment, at most a second ago; what became of it is of now.
    #[must_use]
    pub fn read(&self) -> Reading {
        let deliveries = self.outlets.iter().map(Delivery::of).collect();
        let exporters = self.outlets.iter().map(|outlet| &outlet.exporter);
        let exporters = exporters.chain(&self.traces).chain(&self.metrics);
        Reading {
            stock: self.shared.stock(),
            capture: self.capture.clone(),
            deliveries,
            traces: self.traces.as_ref().map(Exporter::ledger),
            metrics: self.metrics.as_ref().map(Exporter::ledger),
            troubles: exporters.flat_map(Exporter::troubles).collect(),
            still: self.shared.still(),
            uptime: self.started.elapsed(),
            stopping: self.stopping.load(Ordering::Acquire),
            cost: cost::of_this_process(),
        }
    }
}

impl Delivery {
    /// That of this moment.
    #[must_use]
    pub fn of(Outlet { name, exporter }: &Outlet) -> Self {
        Self { name: name.clone(), target: exporter.target(), ledger: exporter.ledger() }
    }
}

impl Reading {
    /// The ledger of this moment.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (traces, metrics) = (self.traces.clone(), self.metrics.clone());
        Summary::new(self.capture.clone(), &self.stock, &self.deliveries, traces, metrics)
    }
}
