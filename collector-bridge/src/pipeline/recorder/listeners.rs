//! Follows every listener of the host: what its metrics count, and which of its events become records.

use std::{collections::HashSet, time::Duration};

use acceptd_common::{
    AcceptCall, ConnectionAbandoned, ConnectionStats, FailureKey, FailureStats, Listener, ListenerState,
    SocketCall, Task, UnixName,
};
use zerocopy::FromZeros as _;

use super::{failures::FailureTotals, writer::RecordWriter};
use crate::{
    bpf::filter::EventFilter,
    clock::{now_boot_nanos, now_unix_nanos},
    config::EventsSection,
    listener::{
        series::{Series, SeriesTable},
        table::{FindingKind, ListenerTable},
    },
    mapping::{
        endpoint::display_address,
        listener::{
            FailureCount, ListenerOwner, abandoned_event, failures_event, finding_event, series_labels,
        },
    },
};

/// The listeners that are known, and the series of their metrics.
pub struct ListenerMonitor {
    table: ListenerTable,
    series: SeriesTable,
    filter: EventFilter,
    failures: FailureTotals,
    /// Listeners with open connections in the kernel's map that had no series at the last update.
    without_series: HashSet<u64>,
}

impl ListenerMonitor {
    /// A monitor of the listeners that pass `filter`, of which `known` exist already. A series is kept for
    /// `series_kept` after its last listener closed.
    #[must_use]
    pub fn new(
        known: &[ListenerState],
        filter: EventFilter,
        stalled_after: Duration,
        series_kept: Duration,
    ) -> Self {
        Self {
            table: ListenerTable::new(known, stalled_after, now_boot_nanos()),
            series: SeriesTable::new(now_unix_nanos(), series_kept),
            filter,
            failures: FailureTotals::new(),
            without_series: HashSet::new(),
        }
    }

    /// Changes how long the oldest connection waits before its listener counts as stalled.
    pub(super) fn set_stalled_after(&mut self, stalled_after: Duration) {
        self.table.set_stalled_after(stalled_after);
    }

    /// Notes an accept, and counts it if it succeeded: the kernel counts the failed ones. If the listener has
    /// no series yet, it gets one; if the listener table is full, the accept is not counted.
    pub(super) fn accepted(
        &mut self,
        call: &AcceptCall,
        listener: &Listener,
        name: Option<&UnixName>,
        task: &Task,
        writer: &mut RecordWriter,
    ) {
        self.table.on_accept(listener, name, task);
        let inode = listener.inode;
        if call.result < 0 || inode == 0 {
            return;
        }
        let queue_ns = (call.flags & AcceptCall::HAS_QUEUE_TIME != 0).then_some(call.queue_ns);
        if !self.series.count_accept(inode, queue_ns) {
            self.name_series(inode, writer);
            let _ = self.series.count_accept(inode, queue_ns);
        }
    }

    /// Notes a call of listen(2).
    pub(super) fn listening(&mut self, call: &SocketCall) {
        self.table.on_listen(call);
    }

    /// Notes that a TCP listener closed, and records what its last counters show.
    pub(super) fn closed(
        &mut self,
        state: &ListenerState,
        events: &EventsSection,
        writer: &mut RecordWriter,
    ) {
        self.table.on_close(state);
        self.record_findings(events, writer);
    }

    /// Counts a connection that was closed before any accept, and records it if it is wanted. Returns whether
    /// it became a record.
    pub(super) fn abandoned(
        &mut self,
        sample: &ConnectionAbandoned,
        events: &EventsSection,
        writer: &mut RecordWriter,
    ) -> bool {
        let known = self.table.find_for(&sample.socket).cloned();
        let owner = known.as_ref().and_then(|known| known.owner.as_ref());
        // The kernel matched the connection against the filter, but does not know which process owns the
        // listener.
        let passes = known.as_ref().is_none_or(|known| self.filter.passes(&known.listener, owner));
        if let Some(known) = &known
            && passes
        {
            self.series.count_abandoned(known.listener.inode);
        }
        if !events.abandoned || !passes {
            return false;
        }
        let identity = writer.owner_identity(owner);
        let owner = ListenerOwner { identity: &identity, pid: owner.map(|task| task.tgid) };
        let event = abandoned_event(sample, known.as_ref(), owner, writer.context());
        writer.push_event(&identity, &event);
        true
    }

    /// Takes a survey: the state of every listener at this moment.
    pub(super) fn surveyed(
        &mut self,
        states: &[ListenerState],
        events: &EventsSection,
        writer: &mut RecordWriter,
    ) {
        writer.begin_burst();
        let now = now_boot_nanos();
        self.table.apply_survey(states, now);
        for state in states {
            let inode = state.listener.inode;
            // A listener with a series had an accept that passed the filter in the kernel. It stays in the
            // metrics even if its present owner does not pass.
            if self.filter.passes(&state.listener, Some(&state.owner)) || self.series.contains(inode) {
                self.name_series(inode, writer);
            }
            let waited = self.table.by_inode(inode).and_then(|known| known.oldest_wait_ns(now));
            let waited = waited.unwrap_or_default();
            let Listener { backlog_length, backlog_limit, .. } = state.listener;
            self.series.set_queue(inode, backlog_length, backlog_limit, waited);
            if backlog_length > 0 {
                log_queue(state, waited);
            }
        }
        let table = &self.table;
        self.series.retain(now, |inode| table.by_inode(inode).is_some());
        self.record_findings(events, writer);
    }

    /// Takes the kernel's totals of failed accepts, and records the new ones. Returns the keys that the
    /// kernel's map may forget.
    pub(super) fn failed(
        &mut self,
        totals: &[(FailureKey, FailureStats)],
        events: &EventsSection,
        writer: &mut RecordWriter,
    ) -> Vec<FailureKey> {
        writer.begin_burst();
        let now = now_boot_nanos();
        let interval_ns = self.failures.begin_read(now);
        let mut idle = Vec::new();
        for (key, first) in totals {
            let (count, is_idle) = self.failures.update(key, first.count);
            self.series.count_failures(key.listener, key.errno, count);
            if is_idle {
                idle.push(*key);
            } else if count > 0 && events.failures {
                let name = self.table.by_inode(key.listener).map(|known| known.name);
                let name = name.unwrap_or_else(UnixName::new_zeroed);
                let failed = FailureCount { key, first, count, interval_ns, name: &name };
                record_failures(failed, now, writer);
            }
        }
        idle
    }

    /// Takes the kernel's counts of connections. Returns the listeners whose counts the kernel's map may
    /// forget.
    pub(super) fn connections(&mut self, counts: &[(u64, ConnectionStats)]) -> Vec<u64> {
        let mut without_series = HashSet::new();
        for (listener, stats) in counts {
            if !self.series.count_connections(*listener, stats) {
                without_series.insert(*listener);
            }
        }
        // A new listener may get its series only with the next survey: two updates in a row decide.
        let closed = without_series.intersection(&self.without_series).copied().collect();
        self.without_series = without_series;
        closed
    }

    /// Every series at this moment.
    pub(super) fn series(&self) -> Vec<Series> {
        self.series.snapshot()
    }

    /// How often a listener could not be kept because the table was full.
    pub(super) fn beyond(&self) -> u64 {
        self.table.rejected()
    }

    /// Records what the table found since the last call: overflows, stalls, and their ends.
    fn record_findings(&mut self, events: &EventsSection, writer: &mut RecordWriter) {
        for found in self.table.take_findings() {
            let known = &found.listener;
            if let FindingKind::Overflow { count } = found.kind {
                self.series.count_overflow(known.listener.inode, count);
            }
            let is_wanted = match found.kind {
                FindingKind::Overflow { .. } => events.overflow,
                FindingKind::Stalled | FindingKind::Recovered { .. } => events.stalled,
            };
            let owner = known.owner.as_ref();
            if !is_wanted || !self.filter.passes(&known.listener, owner) {
                continue;
            }
            let identity = writer.owner_identity(owner);
            let owner = ListenerOwner { identity: &identity, pid: owner.map(|task| task.tgid) };
            let uid = writer.next_uid();
            let event = finding_event(&found, uid, owner, writer.context());
            writer.push_event(&identity, &event);
        }
    }

    /// Gives the series of a listener the name that is known by now, if the listener is in the table.
    fn name_series(&mut self, inode: u64, writer: &mut RecordWriter) {
        let Some(known) = self.table.by_inode(inode) else { return };
        let owner = known.owner.as_ref().map(|task| writer.identity(task));
        let labels = series_labels(&known.listener, &known.name, owner.as_deref());
        self.series.assign(inode, labels, writer.stamp.observed_unix_ns());
    }
}

fn record_failures(failed: FailureCount<'_>, now_boot_ns: u64, writer: &mut RecordWriter) {
    let task = &failed.first.task;
    let identity = writer.identity(task);
    let owner = ListenerOwner { identity: &identity, pid: Some(task.tgid) };
    let uid = writer.next_uid();
    let event = failures_event(failed, now_boot_ns, uid, owner, writer.context());
    writer.push_event(&identity, &event);
}

/// Logs the queue of a listener, for an operator who watches it with `log.level=debug`.
fn log_queue(state: &ListenerState, waited_ns: u64) {
    tracing::debug!(
        "{}: {} of {} connections wait, the oldest for {} ms",
        display_address(&state.listener, &state.name),
        state.listener.backlog_length,
        state.listener.backlog_limit,
        waited_ns / 1_000_000,
    );
}
