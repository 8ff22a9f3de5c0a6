//! The drain thread: ring → [`Recorder`], and now and then a look at every listener. It owns everything between the
//! kernel and the destinations, so the path of an event has no lock and, once warm, no allocation.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use acceptd_common::Counter;
use aya::maps::{MapData, RingBuf};

use crate::{
    accounting::{
        gaps::Total,
        ledger::{CaptureLedger, DrainCounts},
    },
    bpf::{
        Capture, Programs,
        anchor::Anchor,
        attached::Hooks,
        counters::{Counters, KernelCounts},
        failures::FailureCounts,
        lives::LivesCounts,
        peers::Peers,
        ring,
    },
    clock,
    listener::series::Series,
    pipeline::{
        outputs::ConsoleCounts,
        recorder::{Live, Recorder},
    },
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

/// Time between two looks at what was counted.
pub const STOCK_EVERY: Duration = Duration::from_secs(1);

/// What the thread shares with the rest of the agent.
#[derive(Debug, Default)]
pub struct Shared {
    stop: AtomicBool,
    /// What is to be changed, and between two looks at every listener.
    change: Mutex<Option<(Live, Duration)>>,
    /// Boot time of the thread's last round.
    alive_ns: AtomicU64,
    stock: Mutex<Stock>,
}

/// Everything that was counted on the path up to the destinations, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// The programs' counters, read after the thread's own.
    pub kernel: KernelCounts,
    /// The thread's own counts.
    pub drain: DrainCounts,
    /// The console's, if records are printed.
    pub console: Option<ConsoleCounts>,
    /// See [`Hooks::missed`].
    pub hook_missed: Option<u64>,
    /// What was lost within the last minute.
    pub lost: Vec<Total>,
    /// What was counted of listeners.
    pub listeners: Arc<Vec<Series>>,
}

impl Stock {
    /// The ledger of this moment.
    #[must_use]
    pub fn ledger(&self) -> CaptureLedger {
        CaptureLedger::new(&self.kernel, &self.drain)
    }
}

impl Shared {
    /// Asks the thread to detach the programs, drain the ring and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Asks the thread to work in another way, and to look at every listener each `interval`.
    pub fn change(&self, live: Live, interval: Duration) {
        *self.change.lock().unwrap_or_else(PoisonError::into_inner) = Some((live, interval));
    }

    fn take_change(&self) -> Option<(Live, Duration)> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was counted, as of at most a second ago.
    #[must_use]
    pub fn stock(&self) -> Stock {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, stock: Stock) {
        *self.stock.lock().unwrap_or_else(PoisonError::into_inner) = stock;
    }

    /// For how long the thread has not moved. A second is nothing.
    #[must_use]
    pub fn still(&self) -> Duration {
        Duration::from_nanos(clock::now_boot_nanos().saturating_sub(self.alive_ns.load(Ordering::Acquire)))
    }

    fn moves(&self) {
        self.alive_ns.store(clock::now_boot_nanos(), Ordering::Release);
    }
}

/// The thread's own things.
pub struct Drain {
    /// Until the stop.
    hooks: Option<Hooks>,
    ring: RingBuf<MapData>,
    counters: Counters,
    failures: FailureCounts,
    lives: LivesCounts,
    peers: Peers,
    anchor: Anchor,
    recorder: Recorder,
    shared: Arc<Shared>,
    /// Between two looks at every listener.
    interval: Duration,
    looked: Instant,
    counted: Instant,
    capture: Capture,
    /// Time before the start in which nobody captured, if the agent before was not stopped.
    blind: Option<Duration>,
    /// Whether the kernel refused a look: said once.
    look_failed: bool,
}

impl Drain {
    /// A drain of `programs` into `recorder`, which looks at every listener each `interval`.
    #[must_use]
    pub fn new(
        programs: Programs,
        recorder: Recorder,
        shared: Arc<Shared>,
        interval: Duration,
        blind: Option<Duration>,
    ) -> Self {
        shared.moves();
        Self {
            hooks: Some(programs.hooks),
            ring: programs.ring,
            counters: programs.counters,
            failures: programs.failures,
            lives: programs.lives,
            peers: programs.peers,
            anchor: programs.anchor,
            recorder,
            shared,
            interval,
            looked: Instant::now(),
            counted: Instant::now(),
            capture: programs.capture,
            blind,
            look_failed: false,
        }
    }

    /// Runs until [`Shared::stop`]: returns when every sample was recorded and handed on, with what was counted in the end.
    ///
    /// # Errors
    /// When the kernel's counters or the ring cannot be read any more.
    pub fn run(mut self) -> anyhow::Result<Stock> {
        self.recorder.began(&self.capture, self.blind);
        while !self.shared.stop.load(Ordering::Acquire) {
            if let Some((live, interval)) = self.shared.take_change() {
                self.recorder.change(live);
                self.interval = interval;
            }
            let read = drain_once(&mut self.ring, &mut self.recorder);
            if self.looked.elapsed() >= self.interval {
                self.look();
            }
            if self.counted.elapsed() >= STOCK_EVERY {
                self.take_stock()?;
            }
            self.recorder.flush_if_due();
            self.shared.moves();
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
        self.recorder.tell_losses(&CaptureLedger::new(&kernel, &self.recorder.counts()), true);
        self.recorder.ended();
        self.recorder.flush();
        let stock = self.stock(kernel, self.recorder.counts(), hook_missed);
        self.shared.publish(stock.clone());
        Ok(stock)
    }

    /// Counts, lets others see it, and tells of what was lost.
    fn take_stock(&mut self) -> anyhow::Result<()> {
        self.counted = Instant::now();
        self.anchor.set(self.recorder.anchor())?;
        let drain = self.recorder.counts();
        let kernel = self.counters.read()?;
        let hook_missed = self.hooks.as_ref().and_then(Hooks::missed);
        self.recorder.tell_losses(&CaptureLedger::new(&kernel, &drain), false);
        self.shared.publish(self.stock(kernel, drain, hook_missed));
        Ok(())
    }

    fn stock(&self, kernel: KernelCounts, drain: DrainCounts, hook_missed: Option<u64>) -> Stock {
        let console = self.recorder.console_counts();
        let lost = self.recorder.recent_losses();
        let listeners = Arc::new(self.recorder.series());
        Stock { kernel, drain, console, hook_missed, lost, listeners }
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
        let lived = self.lives.read().and_then(|counts| {
            let closed = self.recorder.lived(&counts);
            closed.iter().try_for_each(|listener| self.lives.forget(*listener))
        });
        for refused in [lived, self.peers.sweep().map(drop)].into_iter().filter_map(Result::err) {
            self.look_refused(&refused);
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
