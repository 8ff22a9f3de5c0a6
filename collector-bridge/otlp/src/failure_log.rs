//! Rate-limited warnings about failures: the first one is logged at once, repetitions after intervals that
//! double.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The first interval between two log lines about the same failure. It doubles as long as the failure
/// continues.
const INITIAL_INTERVAL: Duration = Duration::from_secs(10);

/// Upper bound of that interval.
const MAX_INTERVAL: Duration = Duration::from_hours(1);

/// How long a one-off failure stays in [`FailureLog::troubles`].
const RECENT_WINDOW: Duration = Duration::from_mins(1);

/// The kinds of failure. Each kind has a rate limit of its own, so that no kind suppresses another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// The destination cannot be reached, or refuses requests for now.
    Refused,
    /// The destination accepted a request, but rejected some of its records (`partial_success`).
    RecordsRejected,
    /// Records were dropped: the destination refused them permanently, or the retry window is over.
    RecordsDropped,
    /// The queue in memory is full.
    QueueFull,
    /// A request cannot be appended to the spool.
    SpoolAppend,
    /// The spool lost records.
    SpoolLoss,
    /// The spool cannot be read.
    SpoolRead,
    /// The spool cannot be synced to the disk, or cannot be closed.
    SpoolSync,
}

/// The last occurrence of each kind of failure.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<BTreeMap<Failure, Entry>>);

#[derive(Debug)]
struct Entry {
    /// When the failure was last logged.
    logged_at: Instant,
    /// How long repetitions are suppressed after that.
    interval: Duration,
    /// Number of repetitions that were not logged since.
    suppressed: u64,
    /// When the failure last occurred.
    occurred_at: Instant,
    message: String,
    has_recovered: bool,
    /// Whether the recovery is to be logged: the failure itself was.
    is_recovery_due: bool,
}

impl Failure {
    /// Whether this is a state that persists until [`FailureLog::recovered`], not a one-off event.
    fn is_persistent(self) -> bool {
        matches!(self, Self::Refused | Self::SpoolAppend | Self::SpoolRead | Self::SpoolSync)
    }
}

impl FailureLog {
    /// Logs a warning, or counts it as suppressed if the last warning of this kind is too recent.
    pub(crate) fn warn(&self, failure: Failure, message: &str) {
        let now = Instant::now();
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&failure) else {
            tracing::warn!("{message}");
            let message = message.to_owned();
            let entry = Entry {
                logged_at: now,
                interval: INITIAL_INTERVAL,
                suppressed: 0,
                occurred_at: now,
                message,
                has_recovered: false,
                is_recovery_due: true,
            };
            entries.insert(failure, entry);
            return;
        };
        let since_last = now.duration_since(entry.occurred_at);
        (entry.occurred_at, entry.has_recovered) = (now, false);
        message.clone_into(&mut entry.message);
        if now.duration_since(entry.logged_at) < entry.interval {
            entry.suppressed += 1;
            return;
        }
        match entry.suppressed {
            0 => tracing::warn!("{message}"),
            more => tracing::warn!("{message} ({more} more messages like this in between)"),
        }
        entry.interval = if since_last < 2 * entry.interval {
            MAX_INTERVAL.min(2 * entry.interval)
        } else {
            INITIAL_INTERVAL
        };
        (entry.logged_at, entry.suppressed, entry.is_recovery_due) = (now, 0, true);
    }

    /// The message of each failure that persists, or that occurred within the last minute.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let entries = self.lock();
        let current = entries.iter().filter(|(failure, entry)| {
            if failure.is_persistent() {
                !entry.has_recovered
            } else {
                entry.occurred_at.elapsed() < RECENT_WINDOW
            }
        });
        current.map(|(_, entry)| entry.message.clone()).collect()
    }

    /// Marks a failure as over, and logs that only if the failure was logged: flapping within the interval is
    /// suppressed.
    pub(crate) fn recovered(&self, failure: Failure, message: impl FnOnce() -> String) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&failure) else { return };
        entry.has_recovered = true;
        if std::mem::take(&mut entry.is_recovery_due) {
            tracing::info!("{}", message());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Failure, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_continues_is_logged_less_and_less_often() {
        let failures = FailureLog::default();
        let start = Instant::now();
        let mut logged = Vec::new();
        for second in 0..400 {
            failures.warn(Failure::QueueFull, "full");
            let last = failures.lock()[&Failure::QueueFull].logged_at - start;
            if last.as_secs() == second {
                logged.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(logged, [0, 10, 30, 70, 150, 310]);
        tokio::time::advance(MAX_INTERVAL).await;
        failures.warn(Failure::QueueFull, "full");
        assert_eq!(
            failures.lock()[&Failure::QueueFull].interval,
            INITIAL_INTERVAL,
            "the last occurrence was long ago"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_is_a_trouble_until_it_is_over_and_an_event_for_a_minute() {
        let failures = FailureLog::default();
        failures.warn(Failure::Refused, "the Collector is down");
        failures.warn(Failure::QueueFull, "full");
        assert_eq!(failures.troubles(), ["the Collector is down", "full"]);
        tokio::time::advance(RECENT_WINDOW).await;
        assert_eq!(failures.troubles(), ["the Collector is down"]);
        failures.recovered(Failure::Refused, || "the Collector is up".to_owned());
        assert_eq!(failures.troubles(), [""; 0]);
    }

    #[test]
    fn repetitions_are_suppressed_and_other_failures_are_not() {
        let failures = FailureLog::default();
        for _ in 0..3 {
            failures.warn(Failure::SpoolAppend, "full");
        }
        failures.warn(Failure::QueueFull, "full, too");
        let suppressed: Vec<_> =
            failures.lock().iter().map(|(failure, entry)| (*failure, entry.suppressed)).collect();
        assert_eq!(suppressed, [(Failure::QueueFull, 0), (Failure::SpoolAppend, 2)]);
        let has_recovered = || failures.lock()[&Failure::SpoolAppend].has_recovered;
        failures.recovered(Failure::SpoolAppend, || "there is room".to_owned());
        assert!(has_recovered());
        failures.warn(Failure::SpoolAppend, "full");
        assert!(!has_recovered(), "the failure came back");
        failures.recovered(Failure::SpoolAppend, || {
            panic!("the failure was not logged, so its end is not either")
        });
        assert!(has_recovered());
    }
}
