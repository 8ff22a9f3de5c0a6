//! Decodes each sample and dispatches it to the listeners, the spans and the records. Passes surveys, counts
//! and losses on to the parts that report them.

mod agent;
mod failures;
mod listeners;
mod overflows;
mod stamp;
mod unix_names;
mod writer;

use std::{sync::Arc, time::Duration};

use acceptd_common::{
    AcceptCall, ConnectionClosed, ConnectionStats, FailureKey, FailureStats, Header, InetAccept, Listener,
    RefusedAttempts, SocketCall, UnixAccept, UnixTarget,
};
use acceptd_otlp::Signal;
use agent::AgentReporter;
pub use listeners::ListenerMonitor;
use stamp::Stamp;
use unix_names::UnixNames;
use writer::{RecordWriter, SpanBatcher};

use crate::{
    accounting::{
        gaps::LossTotal,
        ledger::{CaptureLedger, DrainCounts},
    },
    bpf::{
        CaptureMode,
        decode::{Sample, decode},
        survey::{KeptListeners, Survey},
        unix_paths::UnixPaths,
    },
    config::EventsSection,
    identity::Identities,
    listener::series::Series,
    mapping::{
        accept,
        ids::Ids,
        socket_call,
        span::{self, SpanStyle},
    },
    pipeline::{
        batcher::Batcher,
        outputs::{ConsoleCounts, Outputs},
        overload::Overload,
        settings::ReloadableSettings,
    },
};

/// The parts of a recorder.
pub struct RecorderDeps {
    /// Finds the process behind a sample, and its Resource.
    pub identities: Identities,
    /// Makes the ids of records and traces.
    pub ids: Ids,
    /// Where log records go.
    pub outputs: Outputs,
    /// Where spans go; `None` if no spans are sent.
    pub spans: Option<SpanOutput>,
    /// Follows the listeners.
    pub listeners: ListenerMonitor,
    /// How records are made and batched.
    pub settings: ReloadableSettings,
}

/// Where spans go and how they are written.
pub struct SpanOutput {
    /// How they are written.
    pub style: SpanStyle,
    /// Where they go.
    pub outputs: Outputs,
}

/// Turns samples into batches of records and spans.
pub struct Recorder {
    writer: RecordWriter,
    listeners: ListenerMonitor,
    overload: Overload,
    agent: AgentReporter,
    events: EventsSection,
    unix_names: UnixNames,
    /// The recorder's own counts; its collaborators count the rest.
    counts: DrainCounts,
}

impl Recorder {
    /// A recorder that hands on a batch when the batch is full or its oldest record has waited for the
    /// timeout.
    #[must_use]
    pub fn new(deps: RecorderDeps) -> Self {
        let RecorderDeps { identities, ids, outputs, spans, listeners, settings } = deps;
        let ReloadableSettings {
            attributes,
            peers,
            events,
            limits,
            timeout,
            max_records_per_second,
            // The listener monitor was made with it.
            stalled_after: _,
        } = settings;
        let spans = spans.map(|SpanOutput { style, outputs }| SpanBatcher {
            style,
            batcher: Batcher::new(Signal::Traces, limits, outputs),
        });
        Self {
            writer: RecordWriter {
                identities,
                stamp: Stamp::new(ids, peers),
                attributes,
                timeout,
                logs: Batcher::new(Signal::Logs, limits, outputs),
                spans,
            },
            listeners,
            overload: Overload::new(max_records_per_second),
            agent: AgentReporter::new(),
            events,
            unix_names: UnixNames::new(),
            counts: DrainCounts::default(),
        }
    }

    /// Takes over new settings, from the next record on. Hands on the records gathered under the old ones
    /// first.
    pub(crate) fn change_settings(&mut self, settings: ReloadableSettings) {
        let ReloadableSettings {
            attributes,
            peers,
            events,
            limits,
            timeout,
            max_records_per_second,
            stalled_after,
        } = settings;
        self.flush();
        self.writer.set_limits(limits);
        (self.writer.attributes, self.writer.timeout) = (attributes, timeout);
        self.writer.stamp.set_peers(peers);
        self.events = events;
        self.overload.set_budget(max_records_per_second);
        self.listeners.set_stalled_after(stalled_after);
    }

    /// Reads the clocks, once for many samples: they share the time of their observation.
    pub fn begin_burst(&mut self) {
        self.writer.begin_burst();
    }

    /// Records what the listeners that closed in this burst had refused: one comparison for all of them.
    pub fn end_burst(&mut self) {
        self.listeners.end_burst(&self.events, &mut self.writer);
    }

    /// Records one sample, or counts why it is not a record.
    pub fn record(&mut self, sample: &[u8]) {
        self.counts.read += 1;
        let sample = match decode(sample) {
            Ok(sample) => sample,
            Err(malformed) => {
                self.counts.malformed += 1;
                tracing::warn!(%malformed, "a ring-buffer sample could not be decoded; it is counted and skipped");
                return;
            }
        };
        self.counts.decoded += 1;
        match sample {
            Sample::InetAccept(sample) => self.inet_accept(sample),
            Sample::UnixAccept(sample) => self.unix_accept(sample),
            Sample::SocketCall(sample) => self.socket_call(sample),
            Sample::ListenerClosed(state) => {
                self.counts.bookkeeping += 1;
                self.listeners.closed(state);
            }
            Sample::Abandoned(sample) => {
                let is_recorded = self.listeners.abandoned(sample, &self.events, &mut self.writer);
                self.counts.bookkeeping += u64::from(!is_recorded);
            }
            Sample::Closed(sample) => self.connection_closed(sample),
        }
    }

    fn inet_accept(&mut self, sample: &InetAccept) {
        let InetAccept { header, call, listener, task, .. } = sample;
        self.listeners.accepted(call, header.boot_ns, listener, None, task, &mut self.writer);
        self.writer.push_spans(task, |style, context| {
            span::inet_accept_spans(sample, style, context).into_iter().flatten()
        });
        let Some(represents) = self.admit(header, call, listener) else { return };
        let identity = self.writer.identity(task);
        let mut accept = accept::inet_accept(sample, &identity, self.writer.context());
        accept.adjusted_count = Some(represents).filter(|accepts| *accepts > 1);
        self.writer.push_accept(&identity, &accept);
    }

    fn unix_accept(&mut self, sample: &UnixAccept) {
        let UnixAccept { listener, local, .. } = sample;
        match self.unix_names.find(listener.inode, local) {
            Some(local) => self.named_unix_accept(&UnixAccept { local, ..*sample }),
            None => self.named_unix_accept(sample),
        }
    }

    fn named_unix_accept(&mut self, sample: &UnixAccept) {
        let UnixAccept { header, call, listener, task, local, .. } = sample;
        self.listeners.accepted(call, header.boot_ns, listener, Some(local), task, &mut self.writer);
        self.writer.push_spans(task, |style, context| span::unix_accept_span(sample, style, context));
        let Some(represents) = self.admit(header, call, listener) else { return };
        let identity = self.writer.identity(task);
        let mut accept = accept::unix_accept(sample, &identity, self.writer.context());
        accept.adjusted_count = Some(represents).filter(|accepts| *accepts > 1);
        self.writer.push_accept(&identity, &accept);
    }

    /// How many accepts the record of this one represents, itself included; `None` if another record
    /// represents it. A failed accept is always a record: the kernel has a budget for those
    /// (`capture.failure_budget`).
    fn admit(&mut self, header: &Header, call: &AcceptCall, listener: &Listener) -> Option<u64> {
        if call.result < 0 {
            return Some(1);
        }
        let represents = self.overload.admit(listener.inode, header.boot_ns);
        self.counts.thinned += u64::from(represents.is_none());
        represents
    }

    fn socket_call(&mut self, sample: &SocketCall) {
        if sample.operation == SocketCall::LISTEN && sample.result == 0 {
            self.writer.began_to_listen(&sample.task, &sample.service);
        }
        self.unix_names.listening(sample);
        self.listeners.listening(sample);
        if sample.operation == SocketCall::LISTEN && !self.events.listen {
            self.counts.bookkeeping += 1;
            return;
        }
        let identity = self.writer.identity(&sample.task);
        let event = socket_call::event(sample, &identity, self.writer.context());
        self.writer.push_event(&identity, &event);
    }

    fn connection_closed(&mut self, sample: &ConnectionClosed) {
        match self.unix_names.find(0, &sample.local) {
            Some(local) => self.named_connection_closed(&ConnectionClosed { local, ..*sample }),
            None => self.named_connection_closed(sample),
        }
    }

    fn named_connection_closed(&mut self, sample: &ConnectionClosed) {
        self.counts.bookkeeping += 1;
        self.writer.push_spans(&sample.traced.task, |style, context| {
            Some(span::connection_span(sample, style, context))
        });
    }

    /// Records that the agent captures from now on, and for how long no agent ran before, if the
    /// previous agent crashed.
    pub(crate) fn agent_started(&mut self, capture: &CaptureMode, unobserved: Option<Duration>) {
        AgentReporter::started(capture, unobserved, &self.events, &mut self.writer);
    }

    /// Records that the agent captures no more.
    pub(crate) fn agent_stopped(&mut self, captured_until_unix_ns: u64) {
        self.agent.stopped(captured_until_unix_ns, &self.events, &mut self.writer);
    }

    /// Records what was lost since the last call, by the counts of this moment. `is_last` says that no later
    /// call follows.
    pub(crate) fn report_losses(&mut self, capture: &CaptureLedger, is_last: bool) {
        self.agent.report_losses(capture, is_last, &self.events, &mut self.writer);
    }

    /// The listeners that a survey has to show, also if there are many.
    pub(crate) fn kept_listeners(&self) -> KeptListeners {
        self.listeners.kept()
    }

    /// Takes a survey: the state of every listener at this moment.
    pub(crate) fn listeners_surveyed(&mut self, survey: &Survey) {
        self.listeners.surveyed(survey, &self.events, &mut self.writer);
    }

    /// Whether a survey is due that finds the path of a new UNIX listener.
    pub(crate) fn needs_unix_paths(&self) -> bool {
        self.unix_names.is_survey_due()
    }

    /// Takes the paths of UNIX listeners by a survey.
    pub(crate) fn unix_paths_surveyed(&mut self, paths: Arc<UnixPaths>) {
        self.unix_names.surveyed(paths);
    }

    /// Takes the kernel's totals of failed accepts. Returns the keys that the kernel's map may forget.
    pub(crate) fn accepts_failed(&mut self, totals: &[(FailureKey, FailureStats)]) -> Vec<FailureKey> {
        self.listeners.failed(totals, &self.events, &mut self.writer)
    }

    /// Says whether the programs count what the full queue of each TCP listener refuses.
    pub(crate) fn begin_overflows(&mut self, are_counted: bool) {
        self.listeners.begin_overflows(are_counted);
    }

    /// Takes how often connects to UNIX sockets were refused, where the programs know only the name. Returns
    /// the targets that the kernel's map may forget.
    pub(crate) fn unix_refused(&mut self, totals: &[(UnixTarget, u64)]) -> Vec<UnixTarget> {
        self.listeners.unix_refused(totals, &self.events, &mut self.writer)
    }

    /// Records the overflows that no event has reported yet: the run ends.
    pub(crate) fn report_last_overflows(&mut self) {
        self.listeners.report_last_overflows(&self.events, &mut self.writer);
    }

    /// Takes the programs' counts of refused attempts by listener. Returns the listeners whose counts the
    /// kernel's map may forget.
    pub(crate) fn refused_by_listeners(&mut self, counts: &[(u64, RefusedAttempts)]) -> Vec<u64> {
        self.listeners.refused_by_listeners(counts)
    }

    /// Takes the kernel's counts of connections by listener. Returns the listeners whose counts the kernel's
    /// map may forget.
    pub(crate) fn connections_counted(&mut self, counts: &[(u64, ConnectionStats)]) -> Vec<u64> {
        self.listeners.connections(counts)
    }

    /// Hands on each batch whose oldest record has waited for the timeout.
    pub(crate) fn flush_if_due(&mut self) {
        self.writer.flush_if_due();
    }

    /// Hands on both batches, however small they are.
    pub fn flush(&mut self) {
        self.writer.flush();
    }

    /// Counts of samples, records and spans so far.
    #[must_use]
    pub fn counts(&self) -> DrainCounts {
        let counts = DrainCounts {
            listeners_beyond: self.listeners.beyond(),
            unassigned_refusals: self.listeners.unassigned_refusals(),
            ..self.counts
        };
        self.writer.add_counts(counts)
    }

    /// The console's counts; `None` if records are not printed.
    pub(crate) fn console_counts(&self) -> Option<ConsoleCounts> {
        self.writer.console_counts()
    }

    /// The losses reported within the last minute.
    pub(crate) fn recent_losses(&self) -> Vec<LossTotal> {
        self.agent.recent_losses()
    }

    /// The series of all listeners at this moment.
    pub(crate) fn series(&self) -> Vec<Series> {
        self.listeners.series()
    }

    /// Nanoseconds since the Unix epoch at which `CLOCK_BOOTTIME` was 0, by the last comparison of the
    /// clocks.
    pub(crate) fn boot_time_unix_nanos(&self) -> u64 {
        self.writer.stamp.boot_time_unix_nanos()
    }
}
