//! Records of the agent itself: it started, it lost events, it stopped.

use std::time::{Duration, Instant};

use super::writer::RecordWriter;
use crate::{
    accounting::{
        gaps::{AGENT_NOT_RUNNING, Gap, Gaps, LossTotal, loss_totals},
        ledger::CaptureLedger,
    },
    bpf::CaptureMode,
    config::EventsSection,
    mapping::agent,
};

/// Makes the agent's own records.
pub(super) struct AgentReporter {
    gaps: Gaps,
    started: Instant,
}

impl AgentReporter {
    /// An agent that starts now.
    pub(super) fn new() -> Self {
        Self { gaps: Gaps::default(), started: Instant::now() }
    }

    /// Records that the programs are attached, and for how long no agent ran before, if the
    /// previous agent crashed.
    pub(super) fn started(
        capture: &CaptureMode,
        unobserved: Option<Duration>,
        events: &EventsSection,
        writer: &mut RecordWriter,
    ) {
        writer.begin_burst();
        if let Some(interval) = unobserved {
            let gap = Gap { reason: AGENT_NOT_RUNNING, destination: None, count: None, interval };
            record_gap(&gap, events, writer);
        }
        if events.agent {
            let missing: Vec<&'static str> = capture.missing.iter().map(|missing| missing.hook).collect();
            let uid = writer.next_uid();
            let event = agent::started_event(capture, &missing, uid, writer.context());
            writer.push_agent_event(&event);
        }
    }

    /// Records that nothing is captured any more: everything was, until `captured_until_unix_ns`. Waits for
    /// processes that have yet to answer first.
    pub(super) fn stopped(
        &self,
        captured_until_unix_ns: u64,
        events: &EventsSection,
        writer: &mut RecordWriter,
    ) {
        writer.wait_for_identities();
        if events.agent {
            writer.begin_burst();
            let uid = writer.next_uid();
            let event =
                agent::stopped_event(self.started.elapsed(), captured_until_unix_ns, uid, writer.context());
            writer.push_agent_event(&event);
        }
    }

    /// Records the losses that were not reported yet, by the counts of this moment. `is_last` says that no
    /// later call follows.
    pub(super) fn report_losses(
        &mut self,
        capture: &CaptureLedger,
        is_last: bool,
        events: &EventsSection,
        writer: &mut RecordWriter,
    ) {
        let totals = loss_totals(capture, &writer.ledgers());
        for gap in self.gaps.unreported(totals, Instant::now(), is_last) {
            writer.begin_burst();
            record_gap(&gap, events, writer);
        }
    }

    /// The losses reported within the last minute.
    pub(super) fn recent_losses(&self) -> Vec<LossTotal> {
        self.gaps.recent(Instant::now())
    }
}

fn record_gap(gap: &Gap, events: &EventsSection, writer: &mut RecordWriter) {
    if events.lost {
        let uid = writer.next_uid();
        let event = agent::lost_event(gap, uid, writer.context());
        writer.push_agent_event(&event);
    }
}
