//! Waiting for a condition, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Nothing in a test takes longer on a loaded machine; a test that waits so long has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The first `Some` of `condition`.
///
/// # Panics
/// After [`DEADLINE`], with `what`.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
