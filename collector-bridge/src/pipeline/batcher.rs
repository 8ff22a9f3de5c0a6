//! Gathers the encoded records of one signal into requests and hands each full or overdue request to the
//! outputs.

use std::time::{Duration, Instant};

use acceptd_otlp::{BatchBuilder, BatchLimits, LedgerSnapshot, Push, Signal};

use crate::{
    identity::Identity,
    pipeline::outputs::{ConsoleCounts, Outputs},
};

/// The batch under construction of one signal (log records or spans), and the outputs that receive it.
pub(super) struct Batcher {
    builder: BatchBuilder,
    outputs: Outputs,
    /// When the first record since the last hand-over was pushed; `None` if there was none.
    oldest: Option<Instant>,
    counts: BatchCounts,
}

/// Counts of the records that a [`Batcher`] was given, by outcome.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BatchCounts {
    /// Added to a batch.
    pub(super) added: u64,
    /// Refused because the record alone exceeds `batch.max_bytes`.
    pub(super) too_large: u64,
}

impl Batcher {
    /// An empty batch of `signal` for `outputs`.
    pub(super) fn new(signal: Signal, limits: BatchLimits, outputs: Outputs) -> Self {
        Self {
            builder: BatchBuilder::new(signal, limits),
            outputs,
            oldest: None,
            counts: BatchCounts::default(),
        }
    }

    /// Changes the limits, from the next record on.
    pub(super) fn set_limits(&mut self, limits: BatchLimits) {
        self.builder.set_limits(limits);
    }

    /// Adds the record that `encode` appends, under the Resource of `identity`. A batch that has no room for
    /// the record is handed to the outputs first, and the record starts the next one.
    pub(super) fn push(&mut self, identity: &Identity, encode: impl FnOnce(&mut Vec<u8>)) {
        match self.builder.push(identity.key, &identity.resource, encode) {
            Push::Added => self.counts.added += 1,
            Push::Sealed(batch) => {
                self.counts.added += 1;
                self.outputs.push(&batch);
                self.oldest = None;
            }
            Push::TooLarge => self.counts.too_large += 1,
        }
        self.oldest.get_or_insert_with(Instant::now);
    }

    /// Replaces the Resource of a process in the batch under construction by its newer, more complete one.
    pub(super) fn complete(&mut self, identity: &Identity) {
        self.builder.update_resource(identity.key, &identity.resource);
    }

    /// Hands the batch to the outputs if `is_due` says so of the time for which its oldest record has waited.
    pub(super) fn flush_if(&mut self, is_due: impl FnOnce(Duration) -> bool) {
        if self.oldest.is_some_and(|oldest| is_due(oldest.elapsed())) {
            self.flush();
        }
    }

    /// Hands the batch to the outputs, however small it is.
    pub(super) fn flush(&mut self) {
        self.oldest = None;
        if let Some(batch) = self.builder.seal() {
            self.outputs.push(&batch);
        }
    }

    /// The counts so far.
    pub(super) fn counts(&self) -> BatchCounts {
        self.counts
    }

    /// The ledgers of the exporters behind the outputs, by destination name.
    pub(super) fn ledgers(&self) -> Vec<(String, LedgerSnapshot)> {
        self.outputs.ledgers()
    }

    /// The console's counts; `None` if records are not printed.
    pub(super) fn console_counts(&self) -> Option<ConsoleCounts> {
        self.outputs.console_counts()
    }
}
