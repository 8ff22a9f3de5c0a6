//! The drain thread: ring → event → identity → record → batch. It owns everything between the kernel and the
//! destinations, so the path of an event has no lock and, once warm, no allocation.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use acceptd_common::Counter;
use acceptd_otlp::{BatchBuilder, Profile, Push, encode_accept};
use aya::maps::{MapData, RingBuf};

use crate::{
    bpf::{
        Programs,
        counters::{Counters, KernelCounts},
        loader::Hooks,
        ring,
    },
    clock::{self, Clock},
    event::{self, Event},
    identity::Identities,
    ids::Ids,
    ledger::DrainCounts,
    mapping,
    output::{ConsoleCounts, Outputs},
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
    recorder: Recorder,
    shared: Arc<Shared>,
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
    /// A drain of `programs` into `recorder`.
    #[must_use]
    pub fn new(programs: Programs, recorder: Recorder, shared: Arc<Shared>) -> Self {
        Self {
            hooks: Some(programs.hooks),
            ring: programs.ring,
            counters: programs.counters,
            recorder,
            shared,
        }
    }

    /// Runs until [`Shared::stop`]: returns when every sample was recorded and handed on.
    ///
    /// # Errors
    /// When the kernel's counters or the ring cannot be read any more.
    pub fn run(mut self) -> anyhow::Result<Drained> {
        while !self.shared.stop.load(Ordering::Acquire) {
            let read = drain_once(&mut self.ring, &mut self.recorder);
            self.recorder.flush_if_due();
            self.publish();
            match read {
                0 => ring::wait(&self.ring, TICK)?,
                BURST => {}
                _ => thread::sleep(REST),
            }
        }
        let hook_missed = self.hooks.take().map_or(Ok(None), Hooks::detach)?;
        let deadline = Instant::now() + LAST_SAMPLES;
        let kernel = loop {
            while drain_once(&mut self.ring, &mut self.recorder) > 0 {}
            let kernel = self.counters.read()?;
            let all_read = kernel.get(Counter::Submitted) == self.recorder.counts.read;
            if all_read || Instant::now() >= deadline {
                break kernel;
            }
            ring::wait(&self.ring, TICK)?;
        };
        self.recorder.flush();
        self.publish();
        let console = self.recorder.outputs.console_counts();
        Ok(Drained { kernel, drain: self.recorder.counts, console, hook_missed })
    }

    fn publish(&self) {
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = self.recorder.counts;
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

/// Turns samples into batches.
pub struct Recorder {
    identities: Identities,
    ids: Ids,
    profile: Profile,
    builder: BatchBuilder,
    timeout: Duration,
    outputs: Outputs,
    clock: Clock,
    observed_unix_ns: u64,
    oldest: Option<Instant>,
    counts: DrainCounts,
}

impl Recorder {
    /// A recorder that hands a batch to `outputs` when `builder` is full or its oldest record is `timeout` old.
    #[must_use]
    pub fn new(
        identities: Identities,
        ids: Ids,
        profile: Profile,
        builder: BatchBuilder,
        timeout: Duration,
        outputs: Outputs,
    ) -> Self {
        Self {
            identities,
            ids,
            profile,
            builder,
            timeout,
            outputs,
            clock: Clock::new(),
            observed_unix_ns: clock::now_unix_nanos(),
            oldest: None,
            counts: DrainCounts::default(),
        }
    }

    /// Looks at the clocks: once for many samples, so that their time of observation is that of the burst.
    pub fn begin_burst(&mut self) {
        self.clock.refresh();
        self.observed_unix_ns = clock::now_unix_nanos();
    }

    /// Records one sample, or counts why not.
    pub fn record(&mut self, sample: &[u8]) {
        self.counts.read += 1;
        match event::decode(sample) {
            Ok(Event::InetAccept(sample)) => {
                self.counts.decoded += 1;
                let identity = self.identities.of(&sample.task);
                let accept =
                    mapping::accept(sample, &identity, &self.ids, &self.clock, self.observed_unix_ns);
                let profile = &self.profile;
                let pushed = self
                    .builder
                    .push(identity.key, &identity.resource, |out| encode_accept(out, &accept, profile));
                self.pushed(pushed);
            }
            Err(malformed) => {
                self.counts.malformed += 1;
                tracing::warn!(%malformed, "a ring-buffer sample could not be decoded; it is counted and skipped");
            }
        }
    }

    fn pushed(&mut self, pushed: Push) {
        match pushed {
            Push::Added => self.counts.records += 1,
            Push::Sealed(batch) => {
                self.counts.records += 1;
                self.outputs.push(batch);
                self.oldest = None;
            }
            Push::TooLarge => self.counts.too_large += 1,
        }
        if self.oldest.is_none() {
            self.oldest = Some(Instant::now());
        }
    }

    fn flush_if_due(&mut self) {
        if self.oldest.is_some_and(|oldest| oldest.elapsed() >= self.timeout) {
            self.flush();
        }
    }

    /// Hands on what is gathered, however little.
    pub fn flush(&mut self) {
        self.oldest = None;
        if let Some(batch) = self.builder.seal() {
            self.outputs.push(batch);
        }
    }
}
