//! The listeners of this host: who owns each, what state its queue is in, and what is to be said of it. No I/O.
//!
//! They are learned from listen calls, from accepts, and from surveys, which also tell their state while nothing is
//! accepted. Times are nanoseconds on `CLOCK_BOOTTIME`.

use std::time::Duration;

use acceptd_common::{Connection, Listener, ListenerState, SocketCall, Task, UnixName};
use foldhash::{HashMap, HashMapExt as _};
use zerocopy::FromZeros as _;

/// Listeners that are kept, at some 400 bytes each. Those beyond are counted, and nothing is said of them.
const LISTENERS: usize = 4096;

/// Shortest time between two overflow records of one listener.
const OVERFLOW_EVERY_NS: u64 = 1_000_000_000;

const AF_INET6: u16 = 10;

/// Everything known of one listener.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its last state.
    pub listener: Listener,
    /// The name of a UNIX listener.
    pub name: UnixName,
    /// The process that called listen, or else one that was seen with it.
    pub owner: Option<Task>,
    /// The oldest connection in the queue, and since when it waits.
    oldest: Option<Oldest>,
    /// `drops` that were told.
    told_drops: u32,
    told_drops_at: u64,
    stalled_since: Option<u64>,
    closed: bool,
    /// Number of the last survey, or learning between two, that saw it.
    seen: u64,
}

#[derive(Debug, Clone, Copy)]
struct Oldest {
    id: u64,
    since: u64,
}

/// Something that is to be said of a listener.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The listener when it was found.
    pub known: Known,
    /// When.
    pub boot_ns: u64,
    /// What.
    pub what: What,
}

/// See [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Connections were dropped.
    Overflow {
        /// How many since the last such finding.
        count: u32,
    },
    /// Connections wait and nothing is accepted.
    Stalled,
    /// The stall is over.
    Recovered {
        /// How long it was since it was found.
        after_ns: u64,
    },
}

impl Known {
    fn new(listener: Listener, name: UnixName, owner: Option<Task>, told_drops: u32, seen: u64) -> Self {
        Self {
            listener,
            name,
            owner,
            oldest: None,
            told_drops,
            told_drops_at: 0,
            stalled_since: None,
            closed: false,
            seen,
        }
    }

    fn untold_drops(&self) -> u32 {
        self.listener.drops.wrapping_sub(self.told_drops)
    }

    fn end_stall(&mut self, now: u64) -> Option<Finding> {
        let since = self.stalled_since.take()?;
        Some(self.finding(now, What::Recovered { after_ns: now.saturating_sub(since) }))
    }

    fn finding(&self, boot_ns: u64, what: What) -> Finding {
        Finding { known: self.clone(), boot_ns, what }
    }

    /// How long the oldest connection in the queue has waited at `now`; a lower bound where the kernel does not know.
    #[must_use]
    pub fn oldest_wait_ns(&self, now: u64) -> Option<u64> {
        self.oldest.map(|oldest| now.saturating_sub(oldest.since))
    }
}

/// Every listener that is known.
#[derive(Debug)]
pub struct Listeners {
    /// By inode.
    known: HashMap<u64, Known>,
    stalled_after_ns: u64,
    survey: u64,
    findings: Vec<Finding>,
    /// Listeners that did not fit.
    beyond: u64,
}

impl Listeners {
    /// Those that `before` tells were there at the start. What they dropped until then is not told.
    #[must_use]
    pub fn new(before: &[ListenerState], stalled_after: Duration, now: u64) -> Self {
        let mut listeners = Self {
            known: HashMap::new(),
            stalled_after_ns: nanos(stalled_after),
            survey: 0,
            findings: Vec::new(),
            beyond: 0,
        };
        for state in before {
            listeners.learn(state.listener, &state.name, Some(state.owner), state.listener.drops);
            listeners.look(state, now);
        }
        listeners
    }

    /// Another patience with listeners that accept nothing.
    pub fn stalled_after(&mut self, stalled_after: Duration) {
        self.stalled_after_ns = nanos(stalled_after);
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How often a listener was not kept because there were too many.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// What there is to say, each once.
    pub fn findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// A process listens.
    pub fn listening(&mut self, call: &SocketCall) {
        if call.result == 0 && call.operation == SocketCall::LISTEN {
            // Called again on a listener, it changes the limit and not the count of drops.
            self.learn(call.socket, &call.name, Some(call.task), 0);
            if let Some(known) = self.known.get_mut(&call.socket.inode) {
                known.owner = Some(call.task);
            }
        }
    }

    /// A connection was accepted from this listener.
    pub fn accepted(&mut self, listener: &Listener, name: Option<&UnixName>, by: &Task) {
        if listener.inode == 0 {
            return;
        }
        if let Some(known) = self.known.get_mut(&listener.inode) {
            known.listener = *listener;
            // One that only a ring or a message has is in no survey.
            known.seen = self.survey;
        } else {
            let unnamed = UnixName::new_zeroed();
            self.learn(*listener, name.unwrap_or(&unnamed), Some(*by), 0);
        }
    }

    fn learn(&mut self, listener: Listener, name: &UnixName, owner: Option<Task>, told_drops: u32) {
        let seen = self.survey;
        if let Some(known) = self.known.get_mut(&listener.inode) {
            known.listener = listener;
            known.seen = seen;
        } else if self.known.len() < LISTENERS {
            let known = Known::new(listener, *name, owner, told_drops, seen);
            self.known.insert(listener.inode, known);
        } else {
            self.beyond += 1;
        }
    }

    /// A TCP listener closed, and its counters with it. Its inode is gone by now: its cookie names it. It is kept
    /// until the next surveys, for the connections that nobody accepted: they close after it.
    pub fn closed(&mut self, state: &ListenerState) {
        let cookie = state.listener.cookie;
        let of_cookie = |known: &&mut Known| cookie != 0 && known.listener.cookie == cookie;
        let Some(known) = self.known.values_mut().find(of_cookie) else { return };
        let now = state.header.boot_ns;
        known.listener.drops = state.listener.drops;
        let count = known.untold_drops();
        known.told_drops = known.listener.drops;
        if count > 0 {
            self.findings.push(known.finding(now, What::Overflow { count }));
        }
        self.findings.extend(known.end_stall(now));
        known.closed = true;
    }

    /// The state of every listener at `now`. Those that are not in it any more have closed.
    pub fn surveyed(&mut self, states: &[ListenerState], now: u64) {
        self.survey += 1;
        for state in states {
            self.learn(state.listener, &state.name, Some(state.owner), 0);
            self.look(state, now);
        }
        // One that was learned while the survey ran may not be in it yet.
        let last = self.survey.saturating_sub(1);
        let gone: Vec<u64> =
            self.known.iter().filter(|(_, known)| known.seen < last).map(|(inode, _)| *inode).collect();
        for inode in gone {
            if let Some(mut known) = self.known.remove(&inode) {
                self.findings.extend(known.end_stall(now));
            }
        }
    }

    /// One listener's state.
    fn look(&mut self, state: &ListenerState, now: u64) {
        let Some(known) = self.known.get_mut(&state.listener.inode) else { return };
        known.oldest = oldest(known.oldest, state, now);
        let count = known.untold_drops();
        if count > 0 && now.saturating_sub(known.told_drops_at) >= OVERFLOW_EVERY_NS {
            known.told_drops = known.listener.drops;
            known.told_drops_at = now;
            self.findings.push(known.finding(now, What::Overflow { count }));
        }
        // The queue is first in, first out: while its oldest connection waits, nothing is accepted.
        let stalls = known.oldest_wait_ns(now).is_some_and(|waited| waited >= self.stalled_after_ns);
        if !stalls {
            self.findings.extend(known.end_stall(now));
        } else if known.stalled_since.is_none() {
            known.stalled_since = Some(now);
            self.findings.push(known.finding(now, What::Stalled));
        }
    }

    /// The listener that `connection` waited on: bound to its local address, or else to any address.
    #[must_use]
    pub fn of(&self, connection: &Connection) -> Option<&Known> {
        let candidates = || {
            self.known.values().filter(|known| {
                let listener = &known.listener;
                listener.port == connection.local_port
                    && listener.netns == connection.netns
                    && matches!(listener.family, 2 | AF_INET6)
            })
        };
        let exact = |known: &&Known| {
            known.listener.family == connection.family && known.listener.addr == connection.local_addr
        };
        // An IPv6 listener also takes IPv4, and its connections are IPv6 sockets.
        let any =
            |known: &&Known| known.listener.addr == [0; 16] && known.listener.family == connection.family;
        // Another one may listen at the same address by now: it has no connection that closes with its listener.
        let best =
            |fits: &dyn Fn(&&Known) -> bool| candidates().filter(fits).max_by_key(|known| known.closed);
        best(&exact).or_else(|| best(&any))
    }

    /// The listener with this inode.
    #[must_use]
    pub fn by_inode(&self, inode: u64) -> Option<&Known> {
        self.known.get(&inode)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The oldest connection, given the one before: if it is the same one, and the kernel does not know since when it
/// waits, since when it was seen.
fn oldest(before: Option<Oldest>, state: &ListenerState, now: u64) -> Option<Oldest> {
    if state.listener.backlog_length == 0 {
        return None;
    }
    let first_seen = before.filter(|before| before.id == state.oldest).map_or(now, |before| before.since);
    let since = if state.oldest_since_ns == 0 { first_seen } else { state.oldest_since_ns };
    Some(Oldest { id: state.oldest, since })
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

    fn listeners(before: &[ListenerState]) -> Listeners {
        Listeners::new(before, Duration::from_secs(5), 0)
    }

    fn whats(listeners: &mut Listeners) -> Vec<What> {
        listeners.findings().into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_stall_is_found_once_and_its_end_once() {
        let mut all = listeners(&[state(0, 0, 0, 0)]);
        all.surveyed(&[state(5, 9, SECOND, 0)], 4 * SECOND);
        assert_eq!(whats(&mut all), []);
        all.surveyed(&[state(5, 9, SECOND, 0)], 8 * SECOND);
        let found = all.findings();
        assert_eq!(found[0].what, What::Stalled);
        assert_eq!(found[0].known.oldest_wait_ns(8 * SECOND), Some(7 * SECOND));
        all.surveyed(&[state(5, 9, SECOND, 0)], 12 * SECOND);
        assert_eq!(whats(&mut all), []);
        all.surveyed(&[state(0, 0, 0, 0)], 14 * SECOND);
        assert_eq!(whats(&mut all), [What::Recovered { after_ns: 6 * SECOND }]);
    }

    #[test]
    fn a_busy_queue_is_no_stall() {
        let mut all = listeners(&[state(0, 0, 0, 0)]);
        for second in 0..20 {
            // Never empty, but the oldest is always another one.
            all.surveyed(&[state(5, second + 1, 0, 0)], second * SECOND);
        }
        assert_eq!(whats(&mut all), []);
    }

    #[test]
    fn a_wait_that_the_kernel_does_not_know_is_counted_since_it_was_seen() {
        let mut all = listeners(&[]);
        all.surveyed(&[state(1, 9, 0, 0)], SECOND);
        all.surveyed(&[state(1, 9, 0, 0)], 5 * SECOND);
        assert_eq!(whats(&mut all), []);
        all.surveyed(&[state(1, 9, 0, 0)], 6 * SECOND);
        assert_eq!(whats(&mut all), [What::Stalled]);
        // The survey does not know the head of every queue; it is the same until the queue was empty.
        let mut all = listeners(&[]);
        all.surveyed(&[state(1, 0, 0, 0)], SECOND);
        all.surveyed(&[state(1, 0, 0, 0)], 6 * SECOND);
        assert_eq!(whats(&mut all), [What::Stalled]);
    }

    #[test]
    fn drops_from_before_the_start_are_not_told() {
        let mut all = listeners(&[state(0, 0, 0, 40)]);
        assert_eq!(whats(&mut all), []);
        all.surveyed(&[state(0, 0, 0, 43)], 2 * SECOND);
        assert_eq!(whats(&mut all), [What::Overflow { count: 3 }]);
    }

    #[test]
    fn overflows_are_told_once_a_second_and_all_of_them_in_the_end() {
        let mut all = listeners(&[]);
        let mut told = 0;
        for tenth in 0..35_u32 {
            all.surveyed(&[state(4, 0, 0, tenth * 7)], SECOND + u64::from(tenth) * SECOND / 10);
        }
        let mut closed = state(0, 0, 0, 1000);
        closed.header.boot_ns = 9 * SECOND;
        all.closed(&closed);
        let overflows: Vec<u32> = whats(&mut all)
            .into_iter()
            .filter_map(|what| match what {
                What::Overflow { count } => Some(count),
                _ => None,
            })
            .collect();
        assert!(overflows.len() <= 5, "{overflows:?}");
        told += overflows.iter().sum::<u32>();
        assert_eq!(told, 1000);
        all.surveyed(&[], 10 * SECOND);
        all.surveyed(&[], 11 * SECOND);
        assert_eq!(whats(&mut all), []);
        assert!(all.is_empty());
    }

    #[test]
    fn the_count_of_drops_may_wrap() {
        let mut all = listeners(&[state(0, 0, 0, u32::MAX)]);
        all.surveyed(&[state(0, 0, 0, 2)], 2 * SECOND);
        assert_eq!(whats(&mut all), [What::Overflow { count: 3 }]);
    }

    #[test]
    fn a_listener_that_is_gone_is_forgotten_and_its_stall_ends() {
        let mut all = listeners(&[]);
        all.surveyed(&[state(5, 9, SECOND, 0)], 10 * SECOND);
        assert_eq!(whats(&mut all), [What::Stalled]);
        all.surveyed(&[], 11 * SECOND);
        assert_eq!(all.len(), 1, "it may have been made while the survey ran");
        all.surveyed(&[], 12 * SECOND);
        assert_eq!(whats(&mut all), [What::Recovered { after_ns: 2 * SECOND }]);
        assert!(all.is_empty());
    }

    #[test]
    fn an_abandoned_connection_finds_its_listener() {
        let mut on_any = state(0, 0, 0, 0);
        on_any.listener.inode = 78;
        let mut on_one = state(0, 0, 0, 0);
        on_one.listener.addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        let all = listeners(&[on_any, on_one]);
        let mut connection = Connection::new_zeroed();
        connection.family = 2;
        connection.local_port = 80_u16.to_be();
        connection.local_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        assert_eq!(all.of(&connection).map(|known| known.listener.inode), Some(77));
        connection.local_addr[3] = 2;
        assert_eq!(all.of(&connection).map(|known| known.listener.inode), Some(78));
        connection.netns = 9;
        assert!(all.of(&connection).is_none());
    }

    #[test]
    fn there_is_a_most() {
        let mut all = listeners(&[]);
        for inode in 1..=5000 {
            let mut listener = state(0, 0, 0, 0).listener;
            listener.inode = inode;
            all.accepted(&listener, None, &Task::new_zeroed());
        }
        assert_eq!((all.len(), all.beyond()), (LISTENERS, 5000 - 4096));
    }
}
