//! Writes records and spans: finds the process, encodes under its Resource, and adds to the batch.

use std::{sync::Arc, thread, time::Duration};

use acceptd_common::{ServiceVariable, Task};
use acceptd_otlp::{
    Accept, AttributeFilter, BatchLimits, Event, LedgerSnapshot, RecordUid, Span, encode_accept,
    encode_event, encode_span,
};

use super::stamp::Stamp;
use crate::{
    accounting::ledger::DrainCounts,
    identity::{ANSWER_TIMEOUT, Identities, Identity},
    mapping::{RecordContext, span::SpanStyle},
    pipeline::{batcher::Batcher, outputs::ConsoleCounts},
};

/// Pause between two checks whether the processes that were asked for their details have answered.
const ANSWER_POLL: Duration = Duration::from_millis(1);

/// The writing end of the recorder, shared by everything that makes records.
pub(super) struct RecordWriter {
    pub(super) identities: Identities,
    pub(super) stamp: Stamp,
    pub(super) attributes: AttributeFilter,
    /// How long a record waits for others.
    pub(super) timeout: Duration,
    pub(super) logs: Batcher,
    /// `None` if no spans are sent.
    pub(super) spans: Option<SpanBatcher>,
}

/// The batch of spans, and how spans are written.
pub(super) struct SpanBatcher {
    pub(super) style: SpanStyle,
    pub(super) batcher: Batcher,
}

impl RecordWriter {
    /// Reads the clocks, and completes the Resources of processes that have answered by now.
    pub(super) fn begin_burst(&mut self) {
        self.stamp.begin_burst();
        self.complete_identities();
    }

    /// The input that the mapping needs besides a sample.
    pub(super) fn context(&self) -> RecordContext<'_> {
        self.stamp.context()
    }

    /// Takes the service's name that the environment of a process had when it began to listen.
    pub(super) fn began_to_listen(&mut self, task: &Task, service: &ServiceVariable) {
        if let Some(identity) = self.identities.began_to_listen(task, service) {
            self.complete(&identity);
        }
    }

    /// The identity of the process that `task` belongs to.
    pub(super) fn identity(&mut self, task: &Task) -> Arc<Identity> {
        self.identities.for_task(task, self.stamp.now())
    }

    /// The identity of a listener's owner, or the agent's if the owner is unknown.
    pub(super) fn owner_identity(&mut self, owner: Option<&Task>) -> Arc<Identity> {
        match owner {
            Some(task) => self.identity(task),
            None => self.identities.agent(),
        }
    }

    /// The id of a record that has no sample behind it. The record counts as made.
    pub(super) fn next_uid(&mut self) -> RecordUid {
        self.stamp.next_uid()
    }

    /// Adds the record of an accept.
    pub(super) fn push_accept(&mut self, identity: &Identity, accept: &Accept<'_>) {
        let Self { logs, attributes, .. } = self;
        logs.push(identity, |out| encode_accept(out, accept, attributes));
    }

    /// Adds the record of any other event.
    pub(super) fn push_event(&mut self, identity: &Identity, event: &Event<'_>) {
        let Self { logs, attributes, .. } = self;
        logs.push(identity, |out| encode_event(out, event, attributes));
    }

    /// Adds an event of the agent itself.
    pub(super) fn push_agent_event(&mut self, event: &Event<'_>) {
        let agent = self.identities.agent();
        self.push_event(&agent, event);
    }

    /// Adds the spans that `map` makes, under the Resource of the process that accepted the connection. If no
    /// spans are sent, `map` is not called.
    pub(super) fn push_spans<'a, S: IntoIterator<Item = Span<'a>>>(
        &mut self,
        task: &Task,
        map: impl FnOnce(SpanStyle, RecordContext<'_>) -> S,
    ) {
        let Some(style) = self.spans.as_ref().map(|spans| spans.style) else { return };
        for span in map(style, self.stamp.context()) {
            let identity = self.identity(task);
            let Self { spans, attributes, .. } = self;
            if let Some(SpanBatcher { batcher, .. }) = spans {
                batcher.push(&identity, |out| encode_span(out, &span, attributes));
            }
        }
    }

    /// Changes the limits of both batches, from the next record on.
    pub(super) fn set_limits(&mut self, limits: BatchLimits) {
        self.logs.set_limits(limits);
        if let Some(SpanBatcher { batcher, .. }) = &mut self.spans {
            batcher.set_limits(limits);
        }
    }

    /// Hands on each batch whose oldest record has waited for the timeout; up to [`ANSWER_TIMEOUT`] longer
    /// while processes have yet to answer.
    pub(super) fn flush_if_due(&mut self) {
        let Self { timeout, identities, logs, spans, .. } = self;
        let is_due = |waited: Duration| {
            waited >= *timeout
                && (waited >= *timeout + ANSWER_TIMEOUT || !identities.is_waiting_for_answers())
        };
        if let Some(SpanBatcher { batcher, .. }) = spans {
            batcher.flush_if(is_due);
        }
        logs.flush_if(is_due);
    }

    /// Hands on both batches, however small they are.
    pub(super) fn flush(&mut self) {
        self.logs.flush();
        if let Some(SpanBatcher { batcher, .. }) = &mut self.spans {
            batcher.flush();
        }
    }

    /// Blocks until every process that was asked has answered, for at most [`ANSWER_TIMEOUT`].
    pub(super) fn wait_for_identities(&mut self) {
        while self.identities.is_waiting_for_answers() {
            thread::sleep(ANSWER_POLL);
            self.complete_identities();
        }
    }

    fn complete_identities(&mut self) {
        while let Some(identity) = self.identities.next_completed() {
            self.complete(&identity);
        }
    }

    /// Gives the records and spans of a process that wait in the batches its new Resource.
    fn complete(&mut self, identity: &Identity) {
        self.logs.complete(identity);
        if let Some(SpanBatcher { batcher, .. }) = &mut self.spans {
            batcher.complete(identity);
        }
    }

    /// `counts`, with the counts of records and spans filled in.
    pub(super) fn add_counts(&self, counts: DrainCounts) -> DrainCounts {
        let logs = self.logs.counts();
        let spans = self.spans.as_ref().map(|spans| spans.batcher.counts()).unwrap_or_default();
        DrainCounts {
            made: self.stamp.made(),
            records: logs.added,
            too_large: logs.too_large,
            spans: spans.added,
            spans_too_large: spans.too_large,
            ..counts
        }
    }

    /// The ledgers of the exporters of log records, by destination name.
    pub(super) fn ledgers(&self) -> Vec<(String, LedgerSnapshot)> {
        self.logs.ledgers()
    }

    /// The console's counts; `None` if records are not printed.
    pub(super) fn console_counts(&self) -> Option<ConsoleCounts> {
        self.logs.console_counts()
    }
}
