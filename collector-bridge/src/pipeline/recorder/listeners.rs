//! Follows every listener of the host: what its metrics count, and which of its events become records.

use std::{collections::HashSet, hash::BuildHasher as _, path::PathBuf, time::Duration};

use acceptd_common::{
    AcceptCall, Connection, ConnectionAbandoned, ConnectionStats, FailureKey, FailureStats, Listener,
    ListenerState, RefusedAttempts, SocketCall, Task, UnixName, UnixTarget,
};
use foldhash::fast::RandomState;
use zerocopy::FromZeros as _;

use super::{failures::FailureTotals, overflows::Overflows, writer::RecordWriter};
use crate::{
    bpf::{
        filter::EventFilter,
        survey::{KeptListeners, Survey},
    },
    clock::{now_boot_nanos, now_unix_nanos},
    config::EventsSection,
    identity::Identity,
    listener::{
        search::WaitedFor,
        series::{MAX_SERIES, MAX_UNIX_SERIES, Series, SeriesTable},
        table::{FindingKind, KnownListener, ListenerTable, by_listener},
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
    overflows: Overflows,
    /// Listeners with open connections in the kernel's map that had no series at the last update.
    without_series: HashSet<u64>,
    /// The host's network namespace; `None` if it is not known.
    host_netns: Option<u32>,
    /// Hashes the facts that a series is named by.
    hasher: RandomState,
    /// Whether some listeners had no series of their own at the last survey.
    is_crowded: bool,
    /// Since when all programs were attached, nanoseconds on `CLOCK_BOOTTIME`.
    complete_since_ns: u64,
    /// When the last listener closed in this burst of samples, nanoseconds on `CLOCK_BOOTTIME`.
    closed_at: Option<u64>,
    /// The inodes of the known listeners that closed in this burst of samples.
    closed: Vec<u64>,
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
            complete_since_ns: now_boot_nanos(),
            table: ListenerTable::new(known, stalled_after, now_boot_nanos()),
            series: SeriesTable::new(now_unix_nanos(), series_kept),
            filter,
            failures: FailureTotals::new(),
            overflows: Overflows::new(),
            without_series: HashSet::new(),
            host_netns: None,
            hasher: RandomState::default(),
            is_crowded: false,
            closed_at: None,
            closed: Vec::new(),
        }
    }

    /// Says which network namespace is the host's: the series of its listeners do not name it.
    #[must_use]
    pub fn with_host_netns(self, host_netns: Option<u32>) -> Self {
        Self { host_netns, ..self }
    }

    /// Sets the `/proc` with the host's process ids; it is `/proc` itself otherwise.
    #[must_use]
    pub fn with_proc(mut self, proc: Option<PathBuf>) -> Self {
        if let Some(proc) = proc {
            self.overflows.set_proc(proc);
        }
        self
    }

    /// Says whether the programs count what the full queue of each TCP listener refused. If not, the kernel's
    /// counters of network namespaces are asked, from now on.
    pub(super) fn begin_overflows(&mut self, are_counted: bool) {
        if are_counted {
            self.overflows.set_counted();
        }
        for (listener, owner) in self.table.owners() {
            self.overflows.learn(listener, owner);
        }
    }

    /// Changes how long the oldest connection waits before its listener counts as stalled.
    pub(super) fn set_stalled_after(&mut self, stalled_after: Duration) {
        self.table.set_stalled_after(stalled_after);
    }

    /// Notes an accept that returned at `at` (boot clock), and counts it if it succeeded: the kernel counts
    /// the failed ones. If the listener has no series yet, it gets one.
    pub(super) fn accepted(
        &mut self,
        call: &AcceptCall,
        at: u64,
        listener: &Listener,
        name: Option<&UnixName>,
        task: &Task,
        writer: &mut RecordWriter,
    ) {
        self.overflows.learn(listener, task);
        let has_new_owner = self.table.on_accept(listener, name, task, at);
        let inode = listener.inode;
        if call.result < 0 || inode == 0 {
            return;
        }
        let queue_ns = (call.flags & AcceptCall::HAS_QUEUE_TIME != 0).then_some(call.queue_ns);
        if has_new_owner || !self.series.contains(inode) {
            self.name_series(inode, writer);
        }
        if !self.series.count_accept(inode, queue_ns) {
            // The listener table is full.
            self.series.count_accept_beyond(queue_ns);
        }
    }

    /// Notes a call of listen(2).
    pub(super) fn listening(&mut self, call: &SocketCall) {
        self.overflows.learn(&call.socket, &call.task);
        self.table.on_listen(call);
    }

    /// Notes that a TCP listener closed. [`Self::end_burst`] compares its last counters.
    pub(super) fn closed(&mut self, state: &ListenerState) {
        self.closed.extend(self.table.on_close(state));
        self.overflows.closed(state.listener.netns);
        self.closed_at = Some(state.header.boot_ns);
    }

    /// Records what the last counters of the listeners show that closed since the last call. Each call visits
    /// the whole table in tier 2, so it is one for many listeners. Those that are open wait for the survey.
    pub(super) fn end_burst(&mut self, events: &EventsSection, writer: &mut RecordWriter) {
        let Some(closed_at) = self.closed_at.take() else { return };
        self.overflows.compare_grown(&mut self.table);
        self.overflows.end_closes(&self.table);
        self.table.find_overflows_of(&std::mem::take(&mut self.closed), closed_at);
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
        // A call that no program saw may have accepted a connection that was queued before all programs were
        // attached. With an unknown start, `queue_ns` is 0.
        let waited_since = sample.header.boot_ns.saturating_sub(sample.queue_ns);
        if sample.queue_ns == 0 || waited_since < self.complete_since_ns {
            return false;
        }
        // The kernel matched the connection against the filter, but does not know which process owns the
        // listener.
        let passes_known = |known: &KnownListener| {
            let port = sample.socket.local_port;
            self.filter.passes_connection(&known.listener, known.owner.task(), port)
        };
        let (known, passes, others) = match self.table.find_for(sample) {
            WaitedFor::One(known) => (Some(known.clone()), passes_known(known), Vec::new()),
            WaitedFor::OneOf(several) => {
                let passes = several.iter().all(|known| passes_known(known));
                (None, passes, several.iter().map(|known| known.listener.inode).collect())
            }
            WaitedFor::Unknown => {
                (None, self.filter.passes(&listener_like(&sample.socket), None), Vec::new())
            }
        };
        if passes {
            if let Some(inode) = known.as_ref().map(|known| known.listener.inode)
                && !self.series.contains(inode)
            {
                self.name_series(inode, writer);
            }
            let known = known.as_ref().map(|known| known.listener.inode);
            self.series.count_abandoned(known.into_iter().chain(others));
        }
        let owner = known.as_ref().and_then(|known| known.owner.task());
        if !events.abandoned || !passes {
            return false;
        }
        let identity = writer.owner_identity(owner);
        let owner = ListenerOwner { identity: &identity, pid: owner.map(|task| task.tgid) };
        let event = abandoned_event(sample, known.as_ref(), owner, writer.context());
        writer.push_event(&identity, &event);
        true
    }

    /// The listeners that a survey has to show, also if there are many.
    pub(super) fn kept(&self) -> KeptListeners {
        self.table.kept()
    }

    /// Takes a survey: the state of every listener at this moment.
    pub(super) fn surveyed(&mut self, survey: &Survey, events: &EventsSection, writer: &mut RecordWriter) {
        writer.begin_burst();
        let now = now_boot_nanos();
        let Survey { rows: states, beyond } = survey;
        self.table.reject(*beyond);
        self.table.apply_survey(states, now);
        for state in states {
            self.overflows.learn_again(&state.listener, &state.owner);
        }
        self.overflows.compare_all(&mut self.table);
        self.overflows.end_survey(&self.table);
        self.table.find_overflows(now);
        for rows in by_listener(states) {
            let state = &rows[0];
            let inode = state.listener.inode;
            let owner = self.table.by_inode(inode).and_then(|known| known.owner.task());
            // A listener with a series had an accept that passed the filter in the kernel. It stays in the
            // metrics even if its present owner does not pass.
            if self.filter.passes(&state.listener, owner) || self.series.contains(inode) {
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
        // Before the series of listeners that are gone are dropped: their last findings count in them.
        self.record_findings(events, writer);
        let table = &self.table;
        self.series.retain(now, |inode| table.by_inode(inode).is_some());
        self.log_crowding();
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

    /// Takes how often connects to UNIX sockets were refused, where the programs know only the name. Returns
    /// the targets that the kernel's map may forget.
    pub(super) fn unix_refused(
        &mut self,
        totals: &[(UnixTarget, u64)],
        events: &EventsSection,
        writer: &mut RecordWriter,
    ) -> Vec<UnixTarget> {
        let (idle, refusing) = self.overflows.take_unix(totals, &mut self.table);
        self.table.find_overflows_of(&refusing, now_boot_nanos());
        self.record_findings(events, writer);
        idle
    }

    /// Records the overflows that no finding has reported yet: the run ends.
    pub(super) fn report_last_overflows(&mut self, events: &EventsSection, writer: &mut RecordWriter) {
        self.overflows.end();
        self.table.find_last_overflows(now_boot_nanos());
        self.record_findings(events, writer);
    }

    /// Takes the programs' counts of refused attempts by listener. Surveys have them, too, but not those of a
    /// listener that closed since the last one: the table keeps it for two surveys. Returns the listeners
    /// whose counts the kernel's map may forget.
    pub(super) fn refused_by_listeners(&mut self, counts: &[(u64, RefusedAttempts)]) -> Vec<u64> {
        for (listener, refused) in counts {
            self.table.observe_refused(*listener, *refused);
        }
        self.overflows.take_gone(counts, &self.table)
    }

    /// Refused attempts that count for no listener, because it is not known which one refused them.
    pub(super) fn unassigned_refusals(&self) -> u64 {
        self.overflows.unassigned()
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
            if let FindingKind::Overflow(overflow) = &found.kind {
                self.series.count_overflow(known.listener.inode, overflow);
            }
            let is_wanted = match found.kind {
                FindingKind::Overflow(overflow) => events.overflow && overflow.refused > 0,
                FindingKind::Stalled | FindingKind::Recovered { .. } => events.stalled,
            };
            let owner = known.owner.task();
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
        let owner = known.owner.task().map(|task| writer.identity(task));
        let named_by = self.hash_of_name(known, owner.as_deref());
        if !self.series.is_named(inode, named_by) {
            let labels = series_labels(&known.listener, &known.name, owner.as_deref(), self.host_netns);
            self.series.assign(inode, labels, named_by, writer.stamp.observed_unix_ns());
        }
    }

    /// A hash of everything that the labels of a series are made from.
    fn hash_of_name(&self, known: &KnownListener, owner: Option<&Identity>) -> u64 {
        let Listener { addr, port, family, protocol, netns, .. } = known.listener;
        let name = (known.name.length, known.name.bytes);
        let owner = owner.map(|owner| (owner.key, &owner.service, &owner.container_id, &owner.pod_uid));
        self.hasher.hash_one((owner, addr, port, family, protocol, netns, name))
    }

    /// Logs that listeners have no series of their own, when that begins.
    fn log_crowding(&mut self) {
        let sharing = self.series.sharing();
        if sharing > 0 && !self.is_crowded {
            tracing::warn!(
                "{sharing} listeners have no metrics of their own, only together: all {MAX_SERIES} series, or the {MAX_UNIX_SERIES} of UNIX sockets, are in use"
            );
        }
        self.is_crowded = sharing > 0;
    }
}

/// The listener of a connection, as far as the connection shows it.
fn listener_like(connection: &Connection) -> Listener {
    let mut listener = Listener::new_zeroed();
    listener.addr = connection.local_addr;
    (listener.port, listener.netns) = (connection.local_port, connection.netns);
    (listener.family, listener.protocol) = (connection.family, connection.protocol);
    listener
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
