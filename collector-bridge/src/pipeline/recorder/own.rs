//! Records of the agent itself: it started, it lost something, it stopped.

use std::time::{Duration, Instant};

use acceptd_otlp::{Event, RecordUid};

use super::{Recorder, push_event};
use crate::{
    accounting::{
        gaps::{
            Gap, Total, {self},
        },
        ledger::CaptureLedger,
    },
    bpf::Capture,
    mapping,
};

impl Recorder {
    /// The programs are attached; before, none were for this time.
    pub fn began(&mut self, capture: &Capture, blind: Option<Duration>) {
        self.begin_burst();
        if let Some(interval) = blind {
            let reason = gaps::AGENT_NOT_RUNNING;
            self.tell_gap(&Gap { reason, destination: None, count: None, interval });
        }
        if self.parts.events.agent {
            let missing: Vec<&'static str> = capture.missing.iter().map(|missing| missing.hook).collect();
            let uid = self.own_uid();
            let event = mapping::agent::started(capture, &missing, uid, self.context());
            self.push_own(&event);
        }
    }

    /// Nothing is captured any more.
    pub fn ended(&mut self) {
        self.be_patient();
        if self.parts.events.agent {
            self.begin_burst();
            let uid = self.own_uid();
            let event = mapping::agent::stopped(self.started.elapsed(), uid, self.context());
            self.push_own(&event);
        }
    }

    /// Tells what was lost since the last time, by the counts of this moment.
    pub fn tell_losses(&mut self, capture: &CaptureLedger, is_last: bool) {
        let totals = gaps::totals(capture, &self.parts.outputs.ledgers());
        for gap in self.gaps.untold(totals, Instant::now(), is_last) {
            self.begin_burst();
            self.tell_gap(&gap);
        }
    }

    /// What was lost within the last minute.
    #[must_use]
    pub fn recent_losses(&self) -> Vec<Total> {
        self.gaps.recent(Instant::now())
    }

    fn tell_gap(&mut self, gap: &Gap) {
        if self.parts.events.lost {
            let uid = self.own_uid();
            let event = mapping::agent::lost(gap, uid, self.context());
            self.push_own(&event);
        }
    }

    /// An event of the agent's own.
    fn push_own(&mut self, event: &Event<'_>) {
        let identity = self.parts.identities.agent();
        let pushed = push_event(&mut self.parts, &identity, event);
        self.pushed(pushed);
    }

    /// The id of a record that is made here.
    pub(super) fn own_uid(&mut self) -> RecordUid {
        self.counts.made += 1;
        let sequence = self.next_own;
        self.next_own += 1;
        self.parts.ids.record(u32::MAX, sequence)
    }
}
