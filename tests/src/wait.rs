//! Waits for a condition with a deadline, instead of sleeping and hoping that something has happened.

use std::{
    fmt::Display,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// The factor by which a slow machine stretches deadlines: `ACCEPTD_TEST_PATIENCE`, or 1.
static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
    let set = std::env::var("ACCEPTD_TEST_PATIENCE").unwrap_or_default();
    set.parse().ok().filter(|factor| *factor > 0).unwrap_or(1)
});

/// The longest that a test waits for anything: 20 s, stretched by `ACCEPTD_TEST_PATIENCE`.
#[must_use]
pub fn deadline() -> Duration {
    Duration::from_secs(20) * *PATIENCE
}

/// An interval or timeout for the agent's configuration, in milliseconds: `base`, stretched by
/// `ACCEPTD_TEST_PATIENCE`.
#[must_use]
pub fn scaled_timeout(base: Duration) -> String {
    format!("{}ms", (base * *PATIENCE).as_millis())
}

/// A count or rate reduced for slow machines: `base` divided by `ACCEPTD_TEST_PATIENCE`, at least 1.
#[must_use]
pub fn scaled_rate(base: u32) -> u32 {
    (base / *PATIENCE).max(1)
}

/// Polls `condition` until it returns `Some`, and returns the value.
///
/// # Panics
/// After [`deadline`], with `what`, which names the thing that is waited for.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    until_ok(|| condition().ok_or(what))
}

/// Polls `condition` until it returns `Ok`, and returns the value.
///
/// # Panics
/// After [`deadline`], with the last error.
pub fn until_ok<T, E: Display>(mut condition: impl FnMut() -> Result<T, E>) -> T {
    let deadline = deadline();
    let end = Instant::now() + deadline;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < end, "not within {deadline:?}: {error}"),
        }
        // Polling takes CPU time from the process that is waited for, so poll less often on a slow machine.
        thread::sleep(Duration::from_millis(5) * *PATIENCE);
    }
}
