//! The table of this host's listeners: the owner of each, the state of its queue, and the findings (overflow,
//! stall) that become records. No I/O.
//!
//! Listeners are learned from listen calls, from accepts and from surveys. Only surveys show the state of a
//! listener while no process accepts from it. All times are nanoseconds on `CLOCK_BOOTTIME`.

use std::time::Duration;

use acceptd_common::{Connection, Listener, ListenerState, SocketCall, Task, UnixName};
use foldhash::{HashMap, HashMapExt as _};
use zerocopy::FromZeros as _;

/// Most listeners in the table, at about 400 bytes each. Further listeners are counted and have no findings.
const MAX_LISTENERS: usize = 4096;

/// Shortest time between two overflow findings of one listener, in nanoseconds.
const OVERFLOW_INTERVAL_NS: u64 = 1_000_000_000;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Everything known about one listener.
#[derive(Debug, Clone)]
pub(crate) struct KnownListener {
    /// The last state that the kernel reported.
    pub(crate) listener: Listener,
    /// The name of a UNIX listener.
    pub(crate) name: UnixName,
    /// The process that called listen, or else a process that had the listener open.
    pub(crate) owner: Option<Task>,
    /// The oldest connection in the queue.
    oldest: Option<OldestConnection>,
    /// The value of `listener.drops` at the last overflow finding.
    reported_drops: u32,
    /// When that finding was made.
    reported_drops_at: u64,
    /// When the current stall was found.
    stalled_since: Option<u64>,
    /// Whether the listener was closed. The entry is kept for the connections that close after it.
    closed: bool,
    /// Number of the latest survey at the time when the listener was last seen.
    seen_in_survey: u64,
}

/// The oldest connection in a queue.
#[derive(Debug, Clone, Copy)]
struct OldestConnection {
    /// The kernel's identifier of the connection; 0 if the survey could not read it.
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
    /// The kernel dropped connections because the queue was full.
    Overflow {
        /// Number of dropped connections since the last overflow finding.
        count: u32,
    },
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
        reported_drops: u32,
        survey: u64,
    ) -> Self {
        Self {
            listener,
            name,
            owner,
            oldest: None,
            reported_drops,
            reported_drops_at: 0,
            stalled_since: None,
            closed: false,
            seen_in_survey: survey,
        }
    }

    fn unreported_drops(&self) -> u32 {
        self.listener.drops.wrapping_sub(self.reported_drops)
    }

    fn end_stall(&mut self, now: u64) -> Option<Finding> {
        let since = self.stalled_since.take()?;
        Some(self.finding(now, FindingKind::Recovered { after_ns: now.saturating_sub(since) }))
    }

    fn finding(&self, boot_ns: u64, kind: FindingKind) -> Finding {
        Finding { listener: self.clone(), boot_ns, kind }
    }

    /// How long the oldest queued connection has waited at `now`, in nanoseconds; a lower bound where the
    /// kernel does not keep the time of arrival. `None` if the queue is empty.
    #[must_use]
    pub(crate) fn oldest_wait_ns(&self, now: u64) -> Option<u64> {
        self.oldest.map(|oldest| now.saturating_sub(oldest.since))
    }
}

/// All known listeners.
#[derive(Debug)]
pub(crate) struct ListenerTable {
    /// Listeners by inode number.
    known: HashMap<u64, KnownListener>,
    stalled_after_ns: u64,
    /// Number of surveys so far.
    survey: u64,
    findings: Vec<Finding>,
    /// Number of listeners that did not fit into the table.
    rejected: u64,
}

impl ListenerTable {
    /// A table with the listeners that existed at the start. Connections dropped before the start are not
    /// reported. A listener counts as stalled when its oldest connection has waited for `stalled_after`.
    #[must_use]
    pub(crate) fn new(existing: &[ListenerState], stalled_after: Duration, now: u64) -> Self {
        let mut listeners = Self {
            known: HashMap::new(),
            stalled_after_ns: nanos(stalled_after),
            survey: 0,
            findings: Vec::new(),
            rejected: 0,
        };
        for state in existing {
            listeners.learn(state.listener, &state.name, Some(state.owner), state.listener.drops);
            listeners.update_queue(state, now);
        }
        listeners
    }

    /// Changes how long the oldest connection of a stalled listener has waited.
    pub(crate) fn set_stalled_after(&mut self, stalled_after: Duration) {
        self.stalled_after_ns = nanos(stalled_after);
    }

    /// Number of known listeners.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.known.len()
    }

    /// How often a listener was not added because the table was full.
    #[must_use]
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Takes the findings since the last call.
    pub(crate) fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Learns a listener from a listen call. Other calls, and calls that failed, are ignored.
    pub(crate) fn on_listen(&mut self, call: &SocketCall) {
        if call.result == 0 && call.operation == SocketCall::LISTEN {
            // A second listen call on the same socket changes the limit but does not reset the drop counter.
            self.learn(call.socket, &call.name, Some(call.task), 0);
            if let Some(known) = self.known.get_mut(&call.socket.inode) {
                known.owner = Some(call.task);
            }
        }
    }

    /// Learns a listener, or its new state, from an accepted connection. `by` is the accepting task.
    pub(crate) fn on_accept(&mut self, listener: &Listener, name: Option<&UnixName>, by: &Task) {
        if listener.inode == 0 {
            return;
        }
        if let Some(known) = self.known.get_mut(&listener.inode) {
            known.listener = *listener;
            // Surveys do not show a listener that is only in an io_uring or an `SCM_RIGHTS` message: this
            // accept keeps it.
            known.seen_in_survey = self.survey;
        } else {
            let unnamed = UnixName::new_zeroed();
            self.learn(*listener, name.unwrap_or(&unnamed), Some(*by), 0);
        }
    }

    /// Adds a listener or updates its state.
    fn learn(&mut self, listener: Listener, name: &UnixName, owner: Option<Task>, reported_drops: u32) {
        let survey = self.survey;
        if let Some(known) = self.known.get_mut(&listener.inode) {
            known.listener = listener;
            known.seen_in_survey = survey;
        } else if self.known.len() < MAX_LISTENERS {
            let known = KnownListener::new(listener, *name, owner, reported_drops, survey);
            self.known.insert(listener.inode, known);
        } else {
            self.rejected += 1;
        }
    }

    /// Handles the close of a TCP listener. The socket has lost its inode by then, so the entry is found by
    /// the cookie. The entry stays until the next surveys, because connections that were never accepted close
    /// after their listener.
    pub(crate) fn on_close(&mut self, state: &ListenerState) {
        let cookie = state.listener.cookie;
        let has_cookie = |known: &&mut KnownListener| cookie != 0 && known.listener.cookie == cookie;
        let Some(known) = self.known.values_mut().find(has_cookie) else { return };
        let now = state.header.boot_ns;
        known.listener.drops = state.listener.drops;
        let count = known.unreported_drops();
        known.reported_drops = known.listener.drops;
        if count > 0 {
            self.findings.push(known.finding(now, FindingKind::Overflow { count }));
        }
        self.findings.extend(known.end_stall(now));
        known.closed = true;
    }

    /// Applies a survey: the state of every open listener at `now`. Listeners that the last two surveys do
    /// not show have closed.
    pub(crate) fn apply_survey(&mut self, states: &[ListenerState], now: u64) {
        self.survey += 1;
        for state in states {
            self.learn(state.listener, &state.name, Some(state.owner), 0);
            self.update_queue(state, now);
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
                self.findings.extend(known.end_stall(now));
            }
        }
    }

    /// Updates a listener's queue from a survey, and adds findings about it.
    fn update_queue(&mut self, state: &ListenerState, now: u64) {
        let Some(known) = self.known.get_mut(&state.listener.inode) else { return };
        known.oldest = oldest(known.oldest, state, now);
        let count = known.unreported_drops();
        if count > 0 && now.saturating_sub(known.reported_drops_at) >= OVERFLOW_INTERVAL_NS {
            known.reported_drops = known.listener.drops;
            known.reported_drops_at = now;
            self.findings.push(known.finding(now, FindingKind::Overflow { count }));
        }
        // The queue is first in, first out: while its oldest connection waits, no connection is accepted.
        let is_stalled = known.oldest_wait_ns(now).is_some_and(|waited| waited >= self.stalled_after_ns);
        if !is_stalled {
            self.findings.extend(known.end_stall(now));
        } else if known.stalled_since.is_none() {
            known.stalled_since = Some(now);
            self.findings.push(known.finding(now, FindingKind::Stalled));
        }
    }

    /// The listener in whose queue `connection` waited: one bound to its local address, or else one bound to
    /// any address.
    #[must_use]
    pub(crate) fn find_for(&self, connection: &Connection) -> Option<&KnownListener> {
        let candidates = || {
            self.known.values().filter(|known| {
                let listener = &known.listener;
                listener.port == connection.local_port
                    && listener.netns == connection.netns
                    && matches!(listener.family, AF_INET | AF_INET6)
            })
        };
        let exact = |known: &&KnownListener| {
            known.listener.family == connection.family && known.listener.addr == connection.local_addr
        };
        // An IPv4 connection to an IPv6 listener is an IPv6 socket, so the families are always equal.
        let any = |known: &&KnownListener| {
            known.listener.addr == [0; 16] && known.listener.family == connection.family
        };
        // Prefer a closed listener: a new one may be bound to the same address already, but queued
        // connections close with their own listener.
        let best = |fits: &dyn Fn(&&KnownListener) -> bool| {
            candidates().filter(fits).max_by_key(|known| known.closed)
        };
        best(&exact).or_else(|| best(&any))
    }

    /// The listener with this inode number.
    #[must_use]
    pub(crate) fn by_inode(&self, inode: u64) -> Option<&KnownListener> {
        self.known.get(&inode)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The oldest connection in a surveyed queue. If the kernel does not keep its time of arrival, the time since
/// when the same connection was the oldest one stands for it.
fn oldest(before: Option<OldestConnection>, state: &ListenerState, now: u64) -> Option<OldestConnection> {
    if state.listener.backlog_length == 0 {
        return None;
    }
    let first_seen = before.filter(|before| before.id == state.oldest).map_or(now, |before| before.since);
    let since = if state.oldest_since_ns == 0 { first_seen } else { state.oldest_since_ns };
    Some(OldestConnection { id: state.oldest, since })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn state(length: u32, oldest: u64, since: u64, drops: u32) -> ListenerState {
        let mut state = ListenerState::new_zeroed();
        state.listener.inode = 77;
        state.listener.cookie = 5;
        state.listener.family = 2;
        state.listener.port = 80_u16.to_be();
        state.listener.backlog_length = length;
        state.listener.backlog_limit = 4;
        state.listener.drops = drops;
        state.oldest = oldest;
        state.oldest_since_ns = since;
        state
    }

    fn table(existing: &[ListenerState]) -> ListenerTable {
        ListenerTable::new(existing, Duration::from_secs(5), 0)
    }

    fn kinds(listeners: &mut ListenerTable) -> Vec<FindingKind> {
        listeners.take_findings().into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn a_stall_is_found_once_and_its_end_once() {
        let mut all = table(&[state(0, 0, 0, 0)]);
        all.apply_survey(&[state(5, 9, SECOND, 0)], 4 * SECOND);
        assert_eq!(kinds(&mut all), []);
        all.apply_survey(&[state(5, 9, SECOND, 0)], 8 * SECOND);
        let found = all.take_findings();
        assert_eq!(found[0].kind, FindingKind::Stalled);
        assert_eq!(found[0].listener.oldest_wait_ns(8 * SECOND), Some(7 * SECOND));
        all.apply_survey(&[state(5, 9, SECOND, 0)], 12 * SECOND);
        assert_eq!(kinds(&mut all), []);
        all.apply_survey(&[state(0, 0, 0, 0)], 14 * SECOND);
        assert_eq!(kinds(&mut all), [FindingKind::Recovered { after_ns: 6 * SECOND }]);
    }

    #[test]
    fn a_busy_queue_is_no_stall() {
        let mut all = table(&[state(0, 0, 0, 0)]);
        for second in 0..20 {
            // The queue is never empty, but its oldest connection changes.
            all.apply_survey(&[state(5, second + 1, 0, 0)], second * SECOND);
        }
        assert_eq!(kinds(&mut all), []);
    }

    #[test]
    fn a_wait_of_unknown_start_is_counted_since_it_was_seen() {
        let mut all = table(&[]);
        all.apply_survey(&[state(1, 9, 0, 0)], SECOND);
        all.apply_survey(&[state(1, 9, 0, 0)], 5 * SECOND);
        assert_eq!(kinds(&mut all), []);
        all.apply_survey(&[state(1, 9, 0, 0)], 6 * SECOND);
        assert_eq!(kinds(&mut all), [FindingKind::Stalled]);
        // The survey cannot read the head of every queue; such a head counts as unchanged until the queue was
        // empty.
        let mut all = table(&[]);
        all.apply_survey(&[state(1, 0, 0, 0)], SECOND);
        all.apply_survey(&[state(1, 0, 0, 0)], 6 * SECOND);
        assert_eq!(kinds(&mut all), [FindingKind::Stalled]);
    }

    #[test]
    fn drops_before_the_start_are_not_reported() {
        let mut all = table(&[state(0, 0, 0, 40)]);
        assert_eq!(kinds(&mut all), []);
        all.apply_survey(&[state(0, 0, 0, 43)], 2 * SECOND);
        assert_eq!(kinds(&mut all), [FindingKind::Overflow { count: 3 }]);
    }

    #[test]
    fn overflows_are_reported_once_a_second_and_all_of_them_in_the_end() {
        let mut all = table(&[]);
        let mut reported = 0;
        for tenth in 0..35_u32 {
            all.apply_survey(&[state(4, 0, 0, tenth * 7)], SECOND + u64::from(tenth) * SECOND / 10);
        }
        let mut closed = state(0, 0, 0, 1000);
        closed.header.boot_ns = 9 * SECOND;
        all.on_close(&closed);
        let overflows: Vec<u32> = kinds(&mut all)
            .into_iter()
            .filter_map(|kind| match kind {
                FindingKind::Overflow { count } => Some(count),
                _ => None,
            })
            .collect();
        assert!(overflows.len() <= 5, "{overflows:?}");
        reported += overflows.iter().sum::<u32>();
        assert_eq!(reported, 1000);
        all.apply_survey(&[], 10 * SECOND);
        all.apply_survey(&[], 11 * SECOND);
        assert_eq!(kinds(&mut all), []);
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn the_count_of_drops_may_wrap() {
        let mut all = table(&[state(0, 0, 0, u32::MAX)]);
        all.apply_survey(&[state(0, 0, 0, 2)], 2 * SECOND);
        assert_eq!(kinds(&mut all), [FindingKind::Overflow { count: 3 }]);
    }

    #[test]
    fn a_closed_listener_is_removed_and_its_stall_ends() {
        let mut all = table(&[]);
        all.apply_survey(&[state(5, 9, SECOND, 0)], 10 * SECOND);
        assert_eq!(kinds(&mut all), [FindingKind::Stalled]);
        all.apply_survey(&[], 11 * SECOND);
        assert_eq!(all.len(), 1, "it may have been opened while the survey ran");
        all.apply_survey(&[], 12 * SECOND);
        assert_eq!(kinds(&mut all), [FindingKind::Recovered { after_ns: 2 * SECOND }]);
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn an_abandoned_connection_finds_its_listener() {
        let mut on_any = state(0, 0, 0, 0);
        on_any.listener.inode = 78;
        let mut on_one = state(0, 0, 0, 0);
        on_one.listener.addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        let all = table(&[on_any, on_one]);
        let mut connection = Connection::new_zeroed();
        connection.family = 2;
        connection.local_port = 80_u16.to_be();
        connection.local_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        assert_eq!(all.find_for(&connection).map(|known| known.listener.inode), Some(77));
        connection.local_addr[3] = 2;
        assert_eq!(all.find_for(&connection).map(|known| known.listener.inode), Some(78));
        connection.netns = 9;
        assert!(all.find_for(&connection).is_none());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut all = table(&[]);
        for inode in 1..=5000 {
            let mut listener = state(0, 0, 0, 0).listener;
            listener.inode = inode;
            all.on_accept(&listener, None, &Task::new_zeroed());
        }
        assert_eq!((all.len(), all.rejected()), (MAX_LISTENERS, 5000 - 4096));
    }
}
