//! The table of this host's listeners: the owner of each, the state of its queue, and the findings (overflow,
//! stall) that become records. No I/O.
//!
//! Listeners are learned from listen calls, from accepts and from surveys. Only surveys show the state of a
//! listener while no process accepts from it. All times are nanoseconds on `CLOCK_BOOTTIME`.

use std::time::Duration;

use acceptd_common::{Listener, ListenerState, SocketCall, Task, UnixName};
use foldhash::{HashMap, HashMapExt as _};
use zerocopy::FromZeros as _;

use super::{
    overflow::{Overflow, QueueOverflow},
    owner::Owner,
};
use crate::bpf::survey::{KeptListeners, MAX_LISTENERS};

/// Everything known about one listener.
#[derive(Debug, Clone)]
pub(crate) struct KnownListener {
    /// The last state that the kernel reported.
    pub(crate) listener: Listener,
    /// The name of a UNIX listener.
    pub(crate) name: UnixName,
    /// The process that the listener belongs to.
    pub(crate) owner: Owner,
    /// The oldest connection in the queue.
    oldest: Option<OldestConnection>,
    /// The counts of its full queue.
    pub(super) overflow: QueueOverflow,
    /// When the current stall was found.
    stalled_since: Option<u64>,
    /// Whether the listener was closed. The entry is kept for the connections that close after it.
    pub(super) closed: bool,
    /// Number of the latest survey at the time when the listener was last seen.
    seen_in_survey: u64,
}

/// The oldest connection in a queue.
#[derive(Debug, Clone, Copy)]
struct OldestConnection {
    /// The kernel's identifier of the connection.
    id: u64,
    /// Since when the connection waits, or else since when it is known to wait.
    since: u64,
}

/// An observation about a listener that becomes a record.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    /// The listener at the time of the finding.
    pub(crate) listener: KnownListener,
    /// Time of the finding, nanoseconds on `CLOCK_BOOTTIME`.
    pub(crate) boot_ns: u64,
    /// The observation.
    pub(crate) kind: FindingKind,
}

/// The kinds of [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FindingKind {
    /// The queue was full, or the kernel dropped packets for another reason, since the last such finding.
    Overflow(Overflow),
    /// Connections wait, and no process accepts them.
    Stalled,
    /// The stall has ended.
    Recovered {
        /// Time since the stall was found, in nanoseconds.
        after_ns: u64,
    },
}

impl KnownListener {
    fn new(
        listener: Listener,
        name: UnixName,
        owner: Option<Task>,
        overflow: QueueOverflow,
        survey: u64,
    ) -> Self {
        Self {
            listener,
            name,
            owner: Owner::new(owner),
            oldest: None,
            overflow,
            stalled_since: None,
            closed: false,
            seen_in_survey: survey,
        }
    }

    fn take_overflow(&mut self, now: u64) -> Option<Finding> {
        let found = self.overflow.take(now, self.closed)?;
        Some(self.finding(now, FindingKind::Overflow(found)))
    }

    fn end_stall(&mut self, now: u64) -> Option<Finding> {
        let since = self.stalled_since.take()?;
        Some(self.finding(now, FindingKind::Recovered { after_ns: now.saturating_sub(since) }))
    }

    fn finding(&self, boot_ns: u64, kind: FindingKind) -> Finding {
        Finding { listener: self.clone(), boot_ns, kind }
    }

    /// How long the oldest queued connection has waited at `now`, in nanoseconds; a lower bound where the
    /// kernel does not keep the time of arrival. `None` if the queue is empty or cannot be read.
    #[must_use]
    pub(crate) fn oldest_wait_ns(&self, now: u64) -> Option<u64> {
        self.oldest.map(|oldest| now.saturating_sub(oldest.since))
    }
}

/// All known listeners, [`MAX_LISTENERS`] at most, at about 450 bytes each. Further listeners are counted and
/// have no findings.
#[derive(Debug)]
pub(crate) struct ListenerTable {
    /// Listeners by inode number.
    pub(super) known: HashMap<u64, KnownListener>,
    /// Inode numbers by cookie, of the listeners that have one.
    by_cookie: HashMap<u64, u64>,
    stalled_after_ns: u64,
    /// Number of surveys so far.
    survey: u64,
    findings: Vec<Finding>,
    /// Number of listeners that did not fit into the table.
    rejected: u64,
}

impl ListenerTable {
    /// A table with the listeners that existed at the start, as [`Self::apply_survey`] takes them. Nothing
    /// that was dropped before the start is reported. A listener counts as stalled when its oldest connection
    /// has waited for `stalled_after`.
    #[must_use]
    pub(crate) fn new(existing: &[ListenerState], stalled_after: Duration, now: u64) -> Self {
        let mut listeners = Self {
            known: HashMap::new(),
            by_cookie: HashMap::new(),
            stalled_after_ns: nanos(stalled_after),
            survey: 0,
            findings: Vec::new(),
            rejected: 0,
        };
        for rows in by_listener(existing) {
            let overflow = QueueOverflow::starting_at(&rows[0]);
            listeners.learn(rows[0].listener, &rows[0].name, Some(rows[0].owner), overflow);
            listeners.update(rows, now);
        }
        listeners
    }

    /// Changes how long the oldest connection of a stalled listener has waited.
    pub(crate) fn set_stalled_after(&mut self, stalled_after: Duration) {
        self.stalled_after_ns = nanos(stalled_after);
    }

    /// Number of known listeners.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// How often a listener was not added because the table was full.
    #[must_use]
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Counts listeners that a survey found but could not show, because the table has no room for them.
    pub(crate) fn reject(&mut self, listeners: u64) {
        self.rejected += listeners;
    }

    /// The listeners that a survey has to show, also if there are many: those in the table, and the processes
    /// among which [`Owner::choose`] prefers one.
    #[must_use]
    pub(crate) fn kept(&self) -> KeptListeners {
        self.known.iter().map(|(inode, known)| (*inode, known.owner.candidates())).collect()
    }

    /// Takes the findings since the last call.
    pub(crate) fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Learns a listener from a listen call. Other calls, and calls that failed, are ignored.
    pub(crate) fn on_listen(&mut self, call: &SocketCall) {
        if call.result == 0 && call.operation == SocketCall::LISTEN {
            // A second listen call on the same socket changes the limit but does not reset the drop counter.
            self.learn(call.socket, &call.name, Some(call.task), QueueOverflow::default());
            if let Some(known) = self.known.get_mut(&call.socket.inode) {
                known.owner.on_listen(&call.task);
            }
        }
    }

    /// Learns a listener, or its new state, from a call of accept that returned to `by` at `at`. Returns
    /// whether the listener has another owner than before, or its owner runs another program.
    pub(crate) fn on_accept(
        &mut self,
        listener: &Listener,
        name: Option<&UnixName>,
        by: &Task,
        at: u64,
    ) -> bool {
        if listener.inode == 0 {
            return false;
        }
        if !self.known.contains_key(&listener.inode) {
            let unnamed = UnixName::new_zeroed();
            self.learn(*listener, name.unwrap_or(&unnamed), Some(*by), QueueOverflow::default());
        }
        let Some(known) = self.known.get_mut(&listener.inode) else { return false };
        known.listener = *listener;
        known.overflow.accepted(listener.backlog_length, listener.backlog_limit);
        // Surveys do not show a listener that is only in an io_uring or an `SCM_RIGHTS` message: this accept
        // keeps it.
        known.seen_in_survey = self.survey;
        known.owner.on_accept(by, at)
    }

    /// Adds a listener or updates its state.
    fn learn(&mut self, listener: Listener, name: &UnixName, owner: Option<Task>, overflow: QueueOverflow) {
        let survey = self.survey;
        if let Some(known) = self.known.get_mut(&listener.inode) {
            if known.listener.cookie != listener.cookie {
                self.by_cookie.remove(&known.listener.cookie);
            }
            known.listener = listener;
            known.seen_in_survey = survey;
            // After shutdown(2), a listener can listen again.
            known.closed = false;
        } else if self.known.len() < MAX_LISTENERS {
            let known = KnownListener::new(listener, *name, owner, overflow, survey);
            self.known.insert(listener.inode, known);
        } else {
            self.rejected += 1;
            return;
        }
        if listener.cookie != 0 {
            self.by_cookie.insert(listener.cookie, listener.inode);
        }
    }

    /// Handles the close of a TCP listener. The socket has lost its inode by then, so the entry is found by
    /// the cookie. The entry stays until the next surveys, because connections that were never accepted close
    /// after their listener. Returns the listener's inode; `None` if the table does not have it.
    pub(crate) fn on_close(&mut self, state: &ListenerState) -> Option<u64> {
        let inode = *self.by_cookie.get(&state.listener.cookie)?;
        let known = self.known.get_mut(&inode)?;
        let now = state.header.boot_ns;
        known.listener.drops = state.listener.drops;
        known.overflow.observe(state);
        // A kernel thread only carries out a close.
        if state.owner.tgid != 0 && state.owner.kernel_thread == 0 {
            known.owner.on_close(&state.owner);
        }
        self.findings.extend(known.end_stall(now));
        known.closed = true;
        Some(inode)
    }

    /// Applies a survey: the state of every open listener at `now`, once for each process that has it open.
    /// Rows of one listener are neighbours. The survey shows all listeners of [`Self::kept`] that are open:
    /// those that the last two surveys do not show have closed.
    pub(crate) fn apply_survey(&mut self, states: &[ListenerState], now: u64) {
        self.survey += 1;
        for rows in by_listener(states) {
            self.learn(rows[0].listener, &rows[0].name, Some(rows[0].owner), QueueOverflow::default());
            self.update(rows, now);
        }
        // The survey may miss a listener that was learned while it ran: keep that one until the next survey.
        let last = self.survey.saturating_sub(1);
        let gone: Vec<u64> = self
            .known
            .iter()
            .filter(|(_, known)| known.seen_in_survey < last)
            .map(|(inode, _)| *inode)
            .collect();
        for inode in gone {
            if let Some(mut known) = self.known.remove(&inode) {
                self.by_cookie.remove(&known.listener.cookie);
                known.closed = true;
                self.findings.extend(known.take_overflow(now));
                self.findings.extend(known.end_stall(now));
            }
        }
    }

    /// Adds findings about full queues, after the last growth of `sk_drops` was compared.
    pub(crate) fn find_overflows(&mut self, now: u64) {
        self.findings.extend(self.known.values_mut().filter_map(|known| known.take_overflow(now)));
    }

    /// The same for the listeners with these inode numbers.
    pub(crate) fn find_overflows_of(&mut self, inodes: &[u64], now: u64) {
        for inode in inodes {
            let found = self.known.get_mut(inode).and_then(|known| known.take_overflow(now));
            self.findings.extend(found);
        }
    }

    /// The same at the end of the run, also for listeners with a finding in the last second.
    pub(crate) fn find_last_overflows(&mut self, now: u64) {
        for known in self.known.values_mut() {
            if let Some(found) = known.overflow.take(now, true) {
                self.findings.push(known.finding(now, FindingKind::Overflow(found)));
            }
        }
    }

    /// Updates a listener from its rows of a survey.
    fn update(&mut self, rows: &[ListenerState], now: u64) {
        if let Some(known) = self.known.get_mut(&rows[0].listener.inode) {
            known.owner.choose(&rows.iter().map(|row| &row.owner));
        }
        self.update_queue(&rows[0], now);
    }

    /// Updates a listener's queue from a survey, and adds findings about it.
    fn update_queue(&mut self, state: &ListenerState, now: u64) {
        let Some(known) = self.known.get_mut(&state.listener.inode) else { return };
        known.oldest = oldest(known.oldest, state, now);
        known.overflow.observe(state);
        // The queue is first in, first out: while its oldest connection waits, no connection is accepted.
        let is_stalled = known.oldest_wait_ns(now).is_some_and(|waited| waited >= self.stalled_after_ns);
        if !is_stalled {
            self.findings.extend(known.end_stall(now));
        } else if known.stalled_since.is_none() {
            known.stalled_since = Some(now);
            self.findings.push(known.finding(now, FindingKind::Stalled));
        }
    }

    /// The listener with this inode number.
    #[must_use]
    pub(crate) fn by_inode(&self, inode: u64) -> Option<&KnownListener> {
        self.known.get(&inode)
    }

    /// The listener with this cookie.
    pub(super) fn by_cookie(&self, cookie: u64) -> Option<&KnownListener> {
        self.by_inode(*self.by_cookie.get(&cookie)?)
    }
}

/// The rows of each listener in a survey.
pub(crate) fn by_listener(states: &[ListenerState]) -> impl Iterator<Item = &[ListenerState]> {
    states.chunk_by(|one, next| one.listener.inode == next.listener.inode)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The oldest connection in a surveyed queue; `None` if the queue is empty, or if the survey could not read
/// it: then a busy listener looks like a stalled one. If the kernel does not keep the time of arrival, the
/// time since when the same connection was the oldest one stands for it.
fn oldest(before: Option<OldestConnection>, state: &ListenerState, now: u64) -> Option<OldestConnection> {
    if state.listener.backlog_length == 0 || state.oldest == 0 {
        return None;
    }
    let first_seen = before.filter(|before| before.id == state.oldest).map_or(now, |before| before.since);
    let since = if state.oldest_since_ns == 0 { first_seen } else { state.oldest_since_ns };
    Some(OldestConnection { id: state.oldest, since })
}

#[cfg(test)]
mod tests;
