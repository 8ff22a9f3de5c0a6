//! One snapshot for all metrics of an export, so that they are of the same moment.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::health::snapshot::{HealthSnapshot, HealthSource};

/// How long a snapshot is reused. The SDK calls the callbacks of all instruments of one export within less.
pub(crate) const REUSED_FOR: Duration = Duration::from_millis(20);

/// The last snapshot, shared by the callbacks of all instruments.
pub(super) struct SnapshotCache {
    source: Arc<HealthSource>,
    last: Mutex<Option<(Instant, Arc<HealthSnapshot>)>>,
}

impl SnapshotCache {
    pub(super) fn new(source: Arc<HealthSource>) -> Self {
        Self { source, last: Mutex::new(None) }
    }

    /// A snapshot that is at most [`REUSED_FOR`] old.
    pub(super) fn snapshot(&self) -> Arc<HealthSnapshot> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((taken, snapshot)) = &*last
            && taken.elapsed() < REUSED_FOR
        {
            return Arc::clone(snapshot);
        }
        let snapshot = Arc::new(self.source.snapshot());
        *last = Some((Instant::now(), Arc::clone(&snapshot)));
        snapshot
    }
}
