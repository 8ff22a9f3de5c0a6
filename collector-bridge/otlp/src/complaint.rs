//! What goes wrong again and again is said once, and then now and then.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Time between two complaints of the same.
const EVERY: Duration = Duration::from_secs(10);

/// What a complaint is about: none keeps another one quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// The destination takes nothing for now.
    Refusal,
    /// It rejected some.
    Rejection,
    /// Records are dropped: refused for good, or too old.
    Drop,
    /// The queue in memory is full.
    Queue,
    /// The spool takes nothing.
    Append,
    /// The spool lost something.
    Loss,
    /// The spool cannot be read, or not be written through.
    Disk,
}

/// When each was last complained of, and how often it was not.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<BTreeMap<About, Last>>);

#[derive(Debug)]
struct Last {
    at: Instant,
    suppressed: u64,
}

impl Complaints {
    /// Logs a warning, or counts it for the next one.
    pub(crate) fn warn(&self, about: About, message: &str) {
        let mut last = self.lock();
        let mut suppressed = 0;
        if let Some(last) = last.get_mut(&about) {
            if last.at.elapsed() < EVERY {
                last.suppressed += 1;
                return;
            }
            suppressed = last.suppressed;
        }
        match suppressed {
            0 => tracing::warn!("{message}"),
            more => tracing::warn!("{message} ({more} more messages like this in between)"),
        }
        last.insert(about, Last { at: Instant::now(), suppressed: 0 });
    }

    /// Logs that something is well again, if it was complained of.
    pub(crate) fn recovered(&self, about: About, message: impl FnOnce() -> String) {
        if self.lock().remove(&about).is_some() {
            tracing::info!("{}", message());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<About, Last>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_and_the_other_too() {
        let complaints = Complaints::default();
        for _ in 0..3 {
            complaints.warn(About::Append, "full");
        }
        complaints.warn(About::Queue, "full, too");
        let suppressed: Vec<_> =
            complaints.lock().iter().map(|(about, last)| (*about, last.suppressed)).collect();
        assert_eq!(suppressed, [(About::Queue, 0), (About::Append, 2)]);
        complaints.recovered(About::Append, || "there is room".to_owned());
        let left: Vec<_> = complaints.lock().keys().copied().collect();
        assert_eq!(left, [About::Queue], "the next time it is said at once");
    }
}
