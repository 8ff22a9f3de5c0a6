//! From the kernel's boot clock to the wall clock.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// How often the two clocks are compared again: NTP steps and slews the wall clock under a running agent.
const ANCHOR_FOR: Duration = Duration::from_secs(1);

/// The difference between `CLOCK_REALTIME` and `CLOCK_BOOTTIME`, measured again and again.
#[derive(Debug)]
pub struct Clock {
    boot_to_real_ns: u64,
    anchored: Instant,
}

impl Clock {
    /// A clock anchored now.
    #[must_use]
    pub fn new() -> Self {
        Self { boot_to_real_ns: measure(), anchored: Instant::now() }
    }

    /// Measures the difference again if it is older than a second.
    pub fn refresh(&mut self) {
        if self.anchored.elapsed() >= ANCHOR_FOR {
            *self = Self::new();
        }
    }

    /// Nanoseconds since the Unix epoch of an instant of the boot clock.
    #[must_use]
    pub fn unix_nanos(&self, boot_ns: u64) -> u64 {
        boot_ns.saturating_add(self.boot_to_real_ns)
    }

    /// Nanoseconds since the Unix epoch when the host booted, by this anchor.
    #[must_use]
    pub fn boot_time_unix_nanos(&self) -> u64 {
        self.boot_to_real_ns
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Nanoseconds since the Unix epoch, now.
#[must_use]
pub fn now_unix_nanos() -> u64 {
    nanos(clock_gettime(ClockId::Realtime))
}

/// Nanoseconds on `CLOCK_BOOTTIME`, now.
#[must_use]
pub fn now_boot_nanos() -> u64 {
    nanos(clock_gettime(ClockId::Boottime))
}

/// The tightest of a few comparisons: between the reads of one the thread may have been preempted.
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
