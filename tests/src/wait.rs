//! Waiting for a condition, with a deadline.

use std::{
    fmt::Display,
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

/// A time after which the agent does something again, or gives something up, as its configuration has it: longer on a slow machine.
#[must_use]
pub fn slowly(natively: Duration) -> String {
    format!("{}ms", (natively * *PATIENCE).as_millis())
}

/// A rate that a slow machine exceeds, too, where one as this exceeds `natively`.
#[must_use]
pub fn fewer(natively: u32) -> u32 {
    (natively / *PATIENCE).max(1)
}

/// The first `Some` of `condition`.
///
/// # Panics
/// After [`deadline`], with `what`.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    until_ok(|| condition().ok_or(what))
}

/// The first `Ok` of `condition`.
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
        // Who looks takes the CPU from who is waited for.
        thread::sleep(Duration::from_millis(5) * *PATIENCE);
    }
}
