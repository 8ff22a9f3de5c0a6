//! Random numbers and times.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// A random number below `bound`.
pub(crate) fn below(bound: u64) -> u64 {
    RandomState::new().hash_one(0) % bound
}

/// A random duration from `least` to `most`.
pub(crate) fn between(least: Duration, most: Duration) -> Duration {
    let range = u64::try_from(most.saturating_sub(least).as_micros()).expect("short");
    least + Duration::from_micros(below(range.max(1)))
}
