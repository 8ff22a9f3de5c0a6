//! Waiting for a condition, with a deadline.

use std::{
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// How many times longer than natively a test may wait: 1, or what `ACCEPTD_TEST_PATIENCE` says of a slow machine.
static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
    let set = std::env::var("ACCEPTD_TEST_PATIENCE").unwrap_or_default();
    set.parse().ok().filter(|factor| *factor > 0).unwrap_or(1)
});

/// Nothing in a test takes longer on a loaded machine; a test that waits so long has failed.
#[must_use]
pub fn deadline() -> Duration {
    Duration::from_secs(20) * *PATIENCE
}

/// The first `Some` of `condition`.
///
/// # Panics
/// After [`deadline`], with `what`.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = deadline();
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
