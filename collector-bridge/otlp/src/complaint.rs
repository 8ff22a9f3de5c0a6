//! What goes wrong again and again is said once, and then now and then.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Time between two complaints.
const EVERY: Duration = Duration::from_secs(10);

/// When a failure was last complained of, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last: Option<Instant>,
    suppressed: u64,
    /// A complaint was logged, and no recovery since.
    failing: bool,
}

impl Complaints {
    /// Logs a warning, or counts it for the next one.
    pub(crate) fn warn(&self, message: &str) {
        let mut inner = self.lock();
        if inner.last.is_some_and(|last| last.elapsed() < EVERY) {
            inner.suppressed += 1;
            return;
        }
        match inner.suppressed {
            0 => tracing::warn!("{message}"),
            more => tracing::warn!("{message} ({more} more messages like this in between)"),
        }
        *inner = Inner { last: Some(Instant::now()), suppressed: 0, failing: true };
    }

    /// Logs that all is well again, if something was not.
    pub(crate) fn recovered(&self, message: impl FnOnce() -> String) {
        if std::mem::take(&mut self.lock().failing) {
            tracing::info!("{}", message());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
