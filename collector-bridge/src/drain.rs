//! The drain thread: ring → [`Recorder`], and now and then a look at every listener. It owns everything between the
//! kernel and the destinations, so the path of an event has no lock and, once warm, no allocation.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use acceptd_common::Counter;
use aya::maps::{MapData, RingBuf};

use crate::{
    bpf::{
        Programs,
        counters::{Counters, KernelCounts},
        failures::FailureCounts,
        loader::Hooks,
        ring,
    },
    ledger::DrainCounts,
    output::ConsoleCounts,
    recorder::Recorder,
};

/// Longest sleep: how late a stop or a batch that is due may be noticed.
const TICK: Duration = Duration::from_millis(100);

/// Rest after samples were read. While the thread rests, a burst of samples costs one wakeup and not one each: the kernel
/// wakes only for a sample that finds everything before it read.
const REST: Duration = Duration::from_millis(5);

/// How long a stop waits for samples of programs that still ran when they were detached.
const LAST_SAMPLES: Duration = Duration::from_millis(500);

/// Samples between two looks at the clock and the stop flag.
const BURST: usize = 4096;

/// What the thread shares with the rest of the agent.
#[derive(Debug, Default)]
pub struct Shared {
    stop: AtomicBool,
    counts: Mutex<DrainCounts>,
}

impl Shared {
    /// Asks the thread to detach the programs, drain the ring and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// The counts of the last burst's end.
    #[must_use]
    pub fn counts(&self) -> DrainCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own things.
pub struct Drain {
    /// Until the stop.
    hooks: Option<Hooks>,
    ring: RingBuf<MapData>,
    counters: Counters,
    failures: FailureCounts,
    recorder: Recorder,
    shared: Arc<Shared>,
    /// Between two looks at every listener.
    interval: Duration,
    looked: Instant,
    /// Whether the kernel refused a look: said once.
    look_failed: bool,
}

/// How a drain ended.
#[derive(Debug)]
pub struct Drained {
    /// The programs' counters after they were detached and the ring was empty.
    pub kernel: KernelCounts,
    /// The thread's own counts.
    pub drain: DrainCounts,
    /// The console's, if records were printed.
    pub console: Option<ConsoleCounts>,
    /// See [`Hooks::detach`].
    pub hook_missed: Option<u64>,
}

impl Drain {
    /// A drain of `programs` into `recorder`, which looks at every listener each `interval`.
    #[must_use]
    pub fn new(programs: Programs, recorder: Recorder, shared: Arc<Shared>, interval: Duration) -> Self {
        Self {
            hooks: Some(programs.hooks),
            ring: programs.ring,
            counters: programs.counters,
            failures: programs.failures,
            recorder,
            shared,
            interval,
            looked: Instant::now(),
            look_failed: false,
        }
    }

    /// Runs until [`Shared::stop`]: returns when every sample was recorded and handed on.
    ///
    /// # Errors
    /// When the kernel's counters or the ring cannot be read any more.
    pub fn run(mut self) -> anyhow::Result<Drained> {
        while !self.shared.stop.load(Ordering::Acquire) {
            let read = drain_once(&mut self.ring, &mut self.recorder);
            if self.looked.elapsed() >= self.interval {
                self.look();
            }
            self.recorder.flush_if_due();
            self.publish();
            match read {
                0 => ring::wait(&self.ring, TICK.min(self.interval))?,
                BURST => {}
                _ => thread::sleep(REST),
            }
        }
        self.look();
        let hook_missed = match self.hooks.take().map(Hooks::detach) {
            Some(Ok(missed)) => missed,
            Some(Err(error)) => {
                self.look_refused(&error);
                None
            }
            None => None,
        };
        let deadline = Instant::now() + LAST_SAMPLES;
        let kernel = loop {
            while drain_once(&mut self.ring, &mut self.recorder) > 0 {}
            let kernel = self.counters.read()?;
            let all_read = kernel.get(Counter::Submitted) == self.recorder.counts().read;
            if all_read || Instant::now() >= deadline {
                break kernel;
            }
            ring::wait(&self.ring, TICK)?;
        };
        self.recorder.flush();
        self.publish();
        let console = self.recorder.console_counts();
        Ok(Drained { kernel, drain: self.recorder.counts(), console, hook_missed })
    }

    /// Looks at every listener, and at what failed. A refused look is no reason to end.
    fn look(&mut self) {
        self.looked = Instant::now();
        let surveyed = self.hooks.as_mut().map_or(Ok(None), Hooks::survey);
        let counted = self.failures.read();
        match &surveyed {
            Ok(Some(states)) => self.recorder.surveyed(states),
            Ok(None) => {}
            Err(error) => self.look_refused(error),
        }
        let forgotten = counted
            .map(|counts| self.recorder.failed(&counts))
            .and_then(|idle| idle.iter().try_for_each(|key| self.failures.forget(key)));
        if let Err(error) = forgotten {
            self.look_refused(&error);
        }
        if let Some(Err(error)) = self.hooks.as_mut().map(Hooks::find_unended) {
            self.look_refused(&error);
        }
    }

    fn look_refused(&mut self, error: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.look_failed, true) {
            tracing::warn!(
                "listeners and threads cannot be looked at: {error}; stalls and overflows may be missed"
            );
        }
    }

    fn publish(&self) {
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = self.recorder.counts();
    }
}

/// Records up to [`BURST`] samples; says how many there were.
fn drain_once(ring: &mut RingBuf<MapData>, recorder: &mut Recorder) -> usize {
    recorder.begin_burst();
    for read in 0..BURST {
        let Some(sample) = ring.next() else { return read };
        recorder.record(&sample);
    }
    BURST
}
