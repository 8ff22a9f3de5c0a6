//! What goes wrong again and again is said once, and then now and then.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Time between two complaints of the same, at first; it doubles as long as they go on.
const EVERY: Duration = Duration::from_secs(10);

/// The longest.
const SELDOM: Duration = Duration::from_hours(1);

/// How long what is no state, but happened, counts as a trouble.
const RECENT: Duration = Duration::from_mins(1);

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
    /// The spool cannot be read.
    Read,
    /// It cannot be written through to the disk, or not be closed.
    Disk,
}

/// When each was last complained of, and how often it was not.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<BTreeMap<About, Last>>);

#[derive(Debug)]
struct Last {
    /// When it was logged.
    said: Instant,
    /// How long it is quiet after that.
    every: Duration,
    /// How often it was not logged since.
    suppressed: u64,
    /// When it happened.
    at: Instant,
    message: String,
    /// Whether it is well again, and whether that is to be logged.
    is_over: bool,
    is_end_due: bool,
}

impl About {
    /// Whether it is a state, which lasts until [`Complaints::recovered`].
    fn lasts(self) -> bool {
        matches!(self, Self::Refusal | Self::Append | Self::Read | Self::Disk)
    }
}

impl Complaints {
    /// Logs a warning, or counts it for the next one.
    pub(crate) fn warn(&self, about: About, message: &str) {
        let now = Instant::now();
        let mut all = self.lock();
        let Some(last) = all.get_mut(&about) else {
            tracing::warn!("{message}");
            let message = message.to_owned();
            let last = Last {
                said: now,
                every: EVERY,
                suppressed: 0,
                at: now,
                message,
                is_over: false,
                is_end_due: true,
            };
            all.insert(about, last);
            return;
        };
        let quiet = now.duration_since(last.at);
        (last.at, last.is_over) = (now, false);
        message.clone_into(&mut last.message);
        if now.duration_since(last.said) < last.every {
            last.suppressed += 1;
            return;
        }
        match last.suppressed {
            0 => tracing::warn!("{message}"),
            more => tracing::warn!("{message} ({more} more messages like this in between)"),
        }
        last.every = if quiet < 2 * last.every { SELDOM.min(2 * last.every) } else { EVERY };
        (last.said, last.suppressed, last.is_end_due) = (now, 0, true);
    }

    /// What is not well at this moment, or was not within the last minute, in words.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let all = self.lock();
        let current = all
            .iter()
            .filter(|(about, last)| if about.lasts() { !last.is_over } else { last.at.elapsed() < RECENT });
        current.map(|(_, last)| last.message.clone()).collect()
    }

    /// Logs that something is well again, if that it is not was logged. What comes and goes stays quiet in between.
    pub(crate) fn recovered(&self, about: About, message: impl FnOnce() -> String) {
        let mut all = self.lock();
        let Some(last) = all.get_mut(&about) else { return };
        last.is_over = true;
        if std::mem::take(&mut last.is_end_due) {
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

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_said_less_and_less_often() {
        let complaints = Complaints::default();
        let began = Instant::now();
        let mut said = Vec::new();
        for second in 0..400 {
            complaints.warn(About::Queue, "full");
            let last = complaints.lock()[&About::Queue].said - began;
            if last.as_secs() == second {
                said.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [0, 10, 30, 70, 150, 310]);
        tokio::time::advance(SELDOM).await;
        complaints.warn(About::Queue, "full");
        assert_eq!(complaints.lock()[&About::Queue].every, EVERY, "it was long ago");
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_is_a_trouble_until_it_is_over_and_an_event_for_a_minute() {
        let complaints = Complaints::default();
        complaints.warn(About::Refusal, "nobody is there");
        complaints.warn(About::Queue, "full");
        assert_eq!(complaints.troubles(), ["nobody is there", "full"]);
        tokio::time::advance(RECENT).await;
        assert_eq!(complaints.troubles(), ["nobody is there"]);
        complaints.recovered(About::Refusal, || "somebody is there".to_owned());
        assert_eq!(complaints.troubles(), [""; 0]);
    }

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
        let over = || complaints.lock()[&About::Append].is_over;
        complaints.recovered(About::Append, || "there is room".to_owned());
        assert!(over());
        complaints.warn(About::Append, "full");
        assert!(!over(), "it is not well again");
        complaints.recovered(About::Append, || panic!("the complaint was not logged, nor is its end"));
        assert!(over());
    }
}
