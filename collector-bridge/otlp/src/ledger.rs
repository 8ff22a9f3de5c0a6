//! The accounting of one exporter: how many records had which outcome.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// Why records were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "&'static str")]
pub enum DropReason {
    /// The queue in memory was full, and these were the oldest records.
    QueueFull,
    /// The request was retried for the whole `export.retry_window`.
    RetryExpired,
    /// The destination refused the request with an answer that forbids a retry.
    NonRetryable,
    /// The destination refused the request as too large, even with a single record.
    TooLarge,
    /// The records were not delivered before the deadline of the shutdown.
    Shutdown,
    /// The spool was full, and these were the oldest records.
    SpoolFull,
    /// The records were in the spool for longer than `spool.max_age`.
    SpoolExpired,
    /// The records were damaged in the spool, or a newer version of acceptd wrote them.
    SpoolCorrupt,
}

impl From<DropReason> for &'static str {
    fn from(reason: DropReason) -> Self {
        reason.name()
    }
}

impl DropReason {
    /// The name of the reason in the JSON of the ledger and in metrics.
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

/// The ledger of one exporter at one moment. The counts are records, unless the field says otherwise. Every
/// count is kept on its own, and none is computed from the others, so that [`LedgerSnapshot::balanced`] is a
/// real check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LedgerSnapshot {
    /// Records that were pushed to the exporter.
    pub records: u64,
    /// Records of an earlier run that were found in the spool.
    pub recovered: u64,
    /// Records that the destination accepted.
    pub acknowledged: u64,
    /// Records that the destination rejected within a request that it accepted (`partial_success`).
    pub rejected: u64,
    /// Dropped records, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Records in the spool that are not in flight.
    pub spooled: u64,
    /// Records in the queue in memory.
    pub queued: u64,
    /// Records in requests that wait for their answer or for their next attempt.
    pub in_flight: u64,
    /// Requests that were accepted.
    pub requests: u64,
    /// Attempts that failed and were retried.
    pub retries: u64,
    /// Requests that were split in two.
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

    /// Checks the equation of the ledger, which holds at every moment: every record that came in has exactly
    /// one outcome.
    ///
    /// # Errors
    /// The equation does not hold. The message has its numbers.
    pub fn balanced(&self) -> Result<(), String> {
        let dropped = self.dropped_total();
        let terms = [self.acknowledged, self.rejected, dropped, self.spooled, self.queued, self.in_flight];
        if self.records + self.recovered == terms.iter().sum::<u64>() {
            Ok(())
        } else {
            Err(format!(
                "records + recovered = acknowledged + rejected + dropped + spooled + queued + in_flight does not hold: {} + {} and {terms:?}",
                self.records, self.recovered
            ))
        }
    }
}

/// The live ledger. It is updated a few times per request, and never per record.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<LedgerSnapshot>);

impl Ledger {
    /// Changes the ledger. Counts that belong together have to change in one call, so that every snapshot is
    /// balanced.
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
