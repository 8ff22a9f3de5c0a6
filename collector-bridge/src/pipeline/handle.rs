//! The handle of the drain thread, shared with the rest of the agent: takes requests to the thread, and
//! shows the counters that the thread publishes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    accounting::{
        gaps::LossTotal,
        ledger::{CaptureLedger, DrainCounts},
    },
    bpf::{MissingFeature, counters::KernelCounts, skipped::SkippedRuns},
    clock::now_boot_nanos,
    listener::series::Series,
    pipeline::{outputs::ConsoleCounts, settings::ReloadableSettings},
};

/// Controls and observes the drain thread.
#[derive(Debug, Default)]
pub(crate) struct DrainHandle {
    stop: AtomicBool,
    /// The settings to take over, and the interval between surveys of all listeners.
    new_settings: Mutex<Option<(ReloadableSettings, Duration)>>,
    /// When the thread's last round ended, nanoseconds on `CLOCK_BOOTTIME`.
    last_round_ns: AtomicU64,
    counters: Mutex<CounterSnapshot>,
}

/// Everything that was counted on the path up to the exporters, at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct CounterSnapshot {
    /// The counters of the BPF programs, read after the thread's own.
    pub(crate) kernel: KernelCounts,
    /// The thread's own counts.
    pub(crate) drain: DrainCounts,
    /// The console's counts; `None` if records are not printed.
    pub(crate) console: Option<ConsoleCounts>,
    /// A sentence for each task of the thread that failed several times in a row.
    pub(crate) failing: Vec<String>,
    /// Runs of the programs that the kernel skipped; `None` on kernels that do not count them.
    pub(crate) skipped: Option<SkippedRuns>,
    /// Until when every accept was captured, nanoseconds since the Unix epoch; `None` while programs run.
    pub(crate) captured_until_unix_ns: Option<u64>,
    /// The losses reported within the last minute.
    pub(crate) lost: Vec<LossTotal>,
    /// Features that the kernel refused since the start.
    pub(crate) missing: Vec<MissingFeature>,
    /// The series of all listeners.
    pub(crate) listeners: Arc<Vec<Series>>,
}

impl CounterSnapshot {
    /// The capture ledger of this moment.
    #[must_use]
    pub(crate) fn ledger(&self) -> CaptureLedger {
        let unseen = self.skipped.as_ref().map_or(0, SkippedRuns::unseen_accepts);
        CaptureLedger::new(&self.kernel, &self.drain, unseen)
    }
}

impl DrainHandle {
    /// Asks the thread to detach the programs, drain the ring and end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Asks the thread to take over new settings, and to survey the listeners every `survey_interval`.
    pub(crate) fn change_settings(&self, settings: ReloadableSettings, survey_interval: Duration) {
        *self.new_settings.lock().unwrap_or_else(PoisonError::into_inner) = Some((settings, survey_interval));
    }

    pub(super) fn take_new_settings(&self) -> Option<(ReloadableSettings, Duration)> {
        self.new_settings.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The counters, as of at most a second ago.
    #[must_use]
    pub(crate) fn counters(&self) -> CounterSnapshot {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn publish(&self, counters: CounterSnapshot) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    /// How long ago the thread ended a round. It ends several a second while it works.
    #[must_use]
    pub(crate) fn since_last_round(&self) -> Duration {
        Duration::from_nanos(now_boot_nanos().saturating_sub(self.last_round_ns.load(Ordering::Acquire)))
    }

    pub(crate) fn end_round(&self) {
        self.last_round_ns.store(now_boot_nanos(), Ordering::Release);
    }
}
