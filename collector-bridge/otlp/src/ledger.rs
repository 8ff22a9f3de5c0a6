//! What became of every record that a destination was given.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// Why records were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "&'static str")]
pub enum DropReason {
    /// The queue was full and these were the oldest.
    QueueFull,
    /// Retried for the whole of `export.retry_window`.
    RetryExpired,
    /// Refused with an answer that forbids a retry.
    NonRetryable,
    /// Refused as too large down to one record.
    TooLarge,
    /// Not delivered when the time for stopping was over.
    Shutdown,
    /// The spool was full and these were the oldest.
    SpoolFull,
    /// Longer in the spool than `spool.max_age`.
    SpoolExpired,
    /// Not any more what was written to the spool.
    SpoolCorrupt,
}

impl From<DropReason> for &'static str {
    fn from(reason: DropReason) -> Self {
        reason.name()
    }
}

impl DropReason {
    /// Its name, as in the ledger.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::RetryExpired => "retry_expired",
            Self::NonRetryable => "non_retryable",
            Self::TooLarge => "too_large",
            Self::Shutdown => "shutdown",
            Self::SpoolFull => "spool_full",
            Self::SpoolExpired => "spool_expired",
            Self::SpoolCorrupt => "spool_corrupt",
        }
    }
}

/// The ledger of one destination, counts of records unless said otherwise. Every term is counted where it happens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LedgerSnapshot {
    /// Given to the destination.
    pub records: u64,
    /// Found in the spool, of an earlier run.
    pub recovered: u64,
    /// Accepted by the Collector.
    pub acknowledged: u64,
    /// Refused by the Collector within a request that it accepted (`partial_success`).
    pub rejected: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// In the spool, and not under way.
    pub spooled: u64,
    /// In the queue in memory.
    pub queued: u64,
    /// In requests that wait for their answer or their next attempt.
    pub in_flight: u64,
    /// Requests that were answered with success.
    pub requests: u64,
    /// Attempts that failed and were repeated.
    pub retries: u64,
    /// Requests that were halved.
    pub splits: u64,
}

impl LedgerSnapshot {
    /// Records dropped for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    pub(crate) fn add_dropped(&mut self, reason: DropReason, records: u64) {
        if records > 0 {
            *self.dropped.entry(reason).or_default() += records;
        }
    }

    /// The ledger's equation, which holds at every moment.
    ///
    /// # Errors
    /// The equation with its numbers, when it does not hold.
    pub fn balanced(&self) -> Result<(), String> {
        let dropped = self.dropped_total();
        let parts = [self.acknowledged, self.rejected, dropped, self.spooled, self.queued, self.in_flight];
        if self.records + self.recovered == parts.iter().sum::<u64>() {
            Ok(())
        } else {
            Err(format!(
                "records + recovered = acknowledged + rejected + dropped + spooled + queued + in_flight does not hold: {} + {} and {parts:?}",
                self.records, self.recovered
            ))
        }
    }
}

/// The ledger itself: a few updates for each request, none for a record.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<LedgerSnapshot>);

impl Ledger {
    /// Changes the ledger; everything that belongs together in one change, so that every snapshot is balanced.
    pub(crate) fn change(&self, change: impl FnOnce(&mut LedgerSnapshot)) {
        change(&mut self.lock());
    }

    pub(crate) fn snapshot(&self) -> LedgerSnapshot {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, LedgerSnapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
