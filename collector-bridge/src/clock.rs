//! Converts the kernel's boot clock, which all samples use, to the wall clock, which all records use.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long a comparison of the two clocks is used. NTP steps and slews the wall clock of a running host.
const ANCHOR_LIFETIME: Duration = Duration::from_secs(1);

/// The difference between `CLOCK_REALTIME` and `CLOCK_BOOTTIME`, measured again every second.
#[derive(Debug)]
pub(crate) struct Clock {
    boot_to_real_ns: u64,
    anchored: Instant,
}

impl Clock {
    /// Measures the difference now.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { boot_to_real_ns: measure(), anchored: Instant::now() }
    }

    /// Measures the difference again if the last measurement is older than a second.
    pub(crate) fn refresh(&mut self) {
        if self.anchored.elapsed() >= ANCHOR_LIFETIME {
            *self = Self::new();
        }
    }

    /// A time on `CLOCK_BOOTTIME`, in nanoseconds, as nanoseconds since the Unix epoch.
    #[must_use]
    pub(crate) fn unix_nanos(&self, boot_ns: u64) -> u64 {
        boot_ns.saturating_add(self.boot_to_real_ns)
    }

    /// When the host booted, nanoseconds since the Unix epoch.
    #[must_use]
    pub(crate) fn boot_time_unix_nanos(&self) -> u64 {
        self.boot_to_real_ns
    }
}

/// Now, nanoseconds since the Unix epoch.
#[must_use]
pub(crate) fn now_unix_nanos() -> u64 {
    nanos(clock_gettime(ClockId::Realtime))
}

/// Now, nanoseconds on `CLOCK_BOOTTIME`.
#[must_use]
pub(crate) fn now_boot_nanos() -> u64 {
    nanos(clock_gettime(ClockId::Boottime))
}

/// The difference between the two clocks, in nanoseconds. Takes the fastest of five comparisons,
/// because the kernel may preempt the thread between the clock reads of a comparison.
fn measure() -> u64 {
    let compare = || {
        let before = now_boot_nanos();
        let real = now_unix_nanos();
        let after = now_boot_nanos();
        let between = before + (after - before) / 2;
        (after - before, real.saturating_sub(between))
    };
    let mut best = compare();
    for _ in 0..4 {
        best = best.min(compare());
    }
    best.1
}

fn nanos(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
/// A time since the Unix epoch as RFC 3339 writes it, with milliseconds; `None` if it is too large for that.
#[must_use]
pub(crate) fn rfc3339(unix_ns: u64) -> Option<String> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).ok()?;
    Some(format!("{time:.3}"))
}
