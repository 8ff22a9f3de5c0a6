//! The drain thread: reads samples from the ring into the [`Recorder`], and surveys the listeners in between.
//! It owns everything between the kernel and the exporters. No lock is taken for a single event: one each
//! round (new settings), one each second (counts), and a few for each batch. Once warm, the path of an accept
//! of a known process allocates nothing.

mod tasks;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use acceptd_common::Counter;
use aya::maps::{MapData, MapError, RingBuf};
use tasks::{FailedTasks, SurveyTask};

use crate::{
    accounting::ledger::DrainCounts,
    bpf::{
        CaptureMode, MissingFeature, Programs,
        anchor::ClockAnchor,
        attached::AttachedPrograms,
        connections::ConnectionCounts,
        counters::{Counters, KernelCounts},
        failures::FailureCounts,
        filter::LiveFilter,
        peers::PeerMaps,
        refused::RefusedCounts,
        ring,
        skipped::SkippedRuns,
        survey::Survey,
    },
    clock::now_unix_nanos,
    pipeline::{
        handle::{CounterSnapshot, DrainHandle},
        recorder::Recorder,
    },
};

/// Longest sleep: how late a stop or an overdue batch may be noticed.
const TICK: Duration = Duration::from_millis(100);

/// Pause after samples were read. The kernel wakes the thread only for a sample that finds the ring empty:
/// thanks to the pause, a burst of samples costs one wakeup and not one each.
const REST: Duration = Duration::from_millis(5);

/// Time between two looks for the cgroups of the filter.
const CGROUP_INTERVAL: Duration = Duration::from_millis(200);

/// How long a stop waits for samples of programs that still ran when they were detached.
const LAST_SAMPLES: Duration = Duration::from_millis(500);

/// Most samples of one burst: between two reads of the clocks and the stop flag.
const BURST: usize = 4096;

/// Time between two published [`CounterSnapshot`]s.
pub(crate) const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that the drain thread owns.
pub(crate) struct Drain {
    /// The attached programs; `None` once they are detached.
    attached: Option<AttachedPrograms>,
    ring: RingBuf<MapData>,
    counters: Counters,
    failures: FailureCounts,
    connections: ConnectionCounts,
    refused: RefusedCounts,
    peers: PeerMaps,
    anchor: ClockAnchor,
    filter: LiveFilter,
    /// When the cgroups of the filter were resolved last.
    resolved: Instant,
    recorder: Recorder,
    handle: Arc<DrainHandle>,
    /// Time between two surveys of all listeners.
    survey_interval: Duration,
    surveyed: Instant,
    published: Instant,
    capture: CaptureMode,
    /// Features that the kernel refused since the start.
    missing: Vec<MissingFeature>,
    /// For how long no agent ran before the start, if the previous agent crashed.
    unobserved: Option<Duration>,
    failed: FailedTasks,
}

impl Drain {
    /// A drain of `programs` into `recorder`, which surveys all listeners every `survey_interval`.
    #[must_use]
    pub(crate) fn new(
        programs: Programs,
        mut recorder: Recorder,
        handle: Arc<DrainHandle>,
        survey_interval: Duration,
        unobserved: Option<Duration>,
    ) -> Self {
        handle.end_round();
        recorder.begin_overflows(programs.capture.counts_overflows());
        Self {
            attached: Some(programs.attached),
            ring: programs.ring,
            counters: programs.counters,
            failures: programs.failures,
            connections: programs.connections,
            refused: programs.refused,
            peers: programs.peers,
            anchor: programs.anchor,
            filter: programs.filter,
            resolved: Instant::now(),
            recorder,
            handle,
            survey_interval,
            surveyed: Instant::now(),
            published: Instant::now(),
            capture: programs.capture,
            missing: Vec::new(),
            unobserved,
            failed: FailedTasks::default(),
        }
    }

    /// Runs until [`DrainHandle::stop`]. Returns the final counts when every sample was recorded and handed
    /// on.
    ///
    /// # Errors
    /// The kernel's counters or the ring cannot be read any more.
    pub(crate) fn run(mut self) -> anyhow::Result<CounterSnapshot> {
        self.filter.warn_of_missing();
        self.take_unix_paths();
        self.recorder.agent_started(&self.capture, self.unobserved);
        while !self.handle.is_stopped() {
            if let Some((settings, survey_interval)) = self.handle.take_new_settings() {
                self.recorder.change_settings(settings);
                self.survey_interval = survey_interval;
            }
            let read = drain_burst(&mut self.ring, &mut self.recorder);
            if self.surveyed.elapsed() >= self.survey_interval {
                self.survey();
            }
            if self.recorder.needs_unix_paths() {
                self.survey_listeners();
            }
            if self.filter.has_cgroups() && self.resolved.elapsed() >= CGROUP_INTERVAL {
                self.resolve_cgroups();
            }
            if self.published.elapsed() >= SNAPSHOT_INTERVAL {
                self.publish()?;
            }
            self.recorder.flush_if_due();
            self.handle.end_round();
            match read {
                0 => ring::wait(&self.ring, TICK.min(self.survey_interval))?,
                BURST => {}
                _ => thread::sleep(REST),
            }
        }
        self.stop()
    }

    /// Detaches the programs, drains the ring, and hands on what is left.
    fn stop(mut self) -> anyhow::Result<CounterSnapshot> {
        self.survey();
        self.recorder.report_last_overflows();
        // The programs are detached one after the other, which takes up to two seconds on some kernels.
        let captured_until_unix_ns = now_unix_nanos();
        let detached = self.attached.take().map_or(Ok(None), AttachedPrograms::detach);
        let skipped = self.failed.note(SurveyTask::LastMissedExits, detached).flatten();
        let deadline = Instant::now() + LAST_SAMPLES;
        let kernel = loop {
            while drain_burst(&mut self.ring, &mut self.recorder) > 0 {}
            let kernel = self.counters.read()?;
            let is_drained = kernel.get(Counter::Submitted) == self.recorder.counts().read;
            if is_drained || Instant::now() >= deadline {
                break kernel;
            }
            ring::wait(&self.ring, TICK)?;
        };
        let losses = self.snapshot(kernel, self.recorder.counts(), skipped);
        self.recorder.report_losses(&losses.ledger(), true);
        self.recorder.agent_stopped(captured_until_unix_ns);
        self.recorder.flush();
        let counters = CounterSnapshot {
            captured_until_unix_ns: Some(captured_until_unix_ns),
            ..self.snapshot(kernel, self.recorder.counts(), losses.skipped)
        };
        self.handle.publish(counters.clone());
        Ok(counters)
    }

    /// Reads all counters, reports what was lost, and publishes the counters. Also renews the clock anchor of
    /// the programs.
    fn publish(&mut self) -> anyhow::Result<()> {
        self.published = Instant::now();
        self.anchor.set(self.recorder.boot_time_unix_nanos())?;
        let drain = self.recorder.counts();
        let kernel = self.counters.read()?;
        let skipped = self.attached.as_ref().and_then(AttachedPrograms::skipped_runs);
        let counters = self.snapshot(kernel, drain, skipped);
        self.recorder.report_losses(&counters.ledger(), false);
        // Again, since the losses that were just reported are part of it.
        self.handle.publish(self.snapshot(kernel, drain, counters.skipped));
        Ok(())
    }

    fn snapshot(
        &self,
        kernel: KernelCounts,
        drain: DrainCounts,
        skipped: Option<SkippedRuns>,
    ) -> CounterSnapshot {
        CounterSnapshot {
            kernel,
            drain,
            console: self.recorder.console_counts(),
            failing: self.failed.reasons(),
            skipped,
            captured_until_unix_ns: None,
            lost: self.recorder.recent_losses(),
            missing: self.missing.clone(),
            listeners: Arc::new(self.recorder.series()),
        }
    }

    /// Surveys all listeners, and reads what the programs counted of failures and connections. The agent goes
    /// on if the kernel refuses one of these.
    fn survey(&mut self) {
        self.surveyed = Instant::now();
        let survey = self.survey_listeners();
        let failures = self.failures.read();
        if let Some(survey) = survey {
            self.recorder.listeners_surveyed(&survey);
        }
        let evicted = failures
            .map(|totals| self.recorder.accepts_failed(&totals))
            .and_then(|idle| idle.iter().try_for_each(|key| self.failures.evict(key)));
        self.failed.note(SurveyTask::FailureCounts, evicted);
        let evicted = self.connections.read().and_then(|counts| {
            let closed = self.recorder.connections_counted(&counts);
            closed.iter().try_for_each(|listener| self.connections.evict(*listener))
        });
        self.failed.note(SurveyTask::ConnectionCounts, evicted);
        let taken = self.take_refused();
        self.failed.note(SurveyTask::RefusedCounts, taken);
        self.failed.note(SurveyTask::Peers, self.peers.sweep());
        let reported = self.attached.as_mut().map_or(Ok(()), AttachedPrograms::report_missed_exits);
        self.failed.note(SurveyTask::MissedExits, reported);
    }

    /// The state of every listener; `None` if the survey fails. Takes the paths of UNIX sockets from it.
    fn survey_listeners(&mut self) -> Option<Survey> {
        let kept = self.recorder.kept_listeners();
        let survey = self.attached.as_mut().map_or(Ok(None), |attached| attached.survey(&kept));
        let survey = self.failed.note(SurveyTask::Listeners, survey).flatten();
        self.take_unix_paths();
        self.take_missing();
        survey
    }

    /// Takes the features that the kernel refused in a survey.
    fn take_missing(&mut self) {
        for missing in self.attached.as_mut().map(AttachedPrograms::take_missing).unwrap_or_default() {
            tracing::warn!("{missing}");
            self.missing.push(missing);
        }
    }

    fn take_unix_paths(&mut self) {
        if let Some(attached) = &self.attached {
            self.recorder.unix_paths_surveyed(attached.unix_paths());
        }
    }

    fn resolve_cgroups(&mut self) {
        self.resolved = Instant::now();
        self.failed.note(SurveyTask::Cgroups, self.filter.refresh());
    }

    /// Reads which connects to UNIX sockets were refused, and tidies the maps of refused attempts.
    fn take_refused(&mut self) -> Result<(), MapError> {
        let by_name = self.refused.by_name()?;
        for target in self.recorder.unix_refused(&by_name) {
            self.refused.evict_name(&target)?;
        }
        let by_listener = self.refused.by_listener()?;
        for listener in self.recorder.refused_by_listeners(&by_listener) {
            self.refused.evict_listener(listener)?;
        }
        Ok(())
    }
}

/// Records up to [`BURST`] samples. Returns how many there were.
fn drain_burst(ring: &mut RingBuf<MapData>, recorder: &mut Recorder) -> usize {
    recorder.begin_burst();
    let mut read = 0;
    while read < BURST
        && let Some(sample) = ring.next()
    {
        recorder.record(&sample);
        read += 1;
    }
    recorder.end_burst();
    read
}
