//! The settings that SIGHUP can change while events flow.

use std::time::Duration;

use acceptd_otlp::{AttributeFilter, BatchLimits};

use crate::config::{EventsSection, PeerAddress};

/// Everything of the configuration that the drain thread can take over without a restart.
#[derive(Debug)]
pub struct ReloadableSettings {
    /// Which attributes records and spans have (`attributes.*`).
    pub attributes: AttributeFilter,
    /// How much of a peer's address is recorded (`privacy.peer_address`).
    pub peers: PeerAddress,
    /// Which events become records (`events.*`).
    pub events: EventsSection,
    /// When a batch is full.
    pub limits: BatchLimits,
    /// How long a record waits for others before its batch is sent (`batch.timeout`).
    pub timeout: Duration,
    /// Most accept records a second; beyond it accepts are sampled (`overload.max_records_per_second`).
    pub max_records_per_second: u64,
    /// How long the oldest connection waits in the queue before its listener counts as stalled
    /// (`listener.stalled_after`).
    pub stalled_after: Duration,
}
