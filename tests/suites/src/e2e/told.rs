//! The records of one network namespace: what acceptd reported of its listeners.

use acceptd_otlp::names;

use crate::records::Record;

/// The records of one network namespace.
pub(super) struct Told<'a>(Vec<&'a Record>);

impl<'a> Told<'a> {
    /// The records with this network namespace.
    pub(super) fn of(netns: u64, records: &'a [Record]) -> Self {
        let netns = netns.to_string();
        let is_own = |record: &&Record| record.attribute(names::ACCEPTD_NETNS_INODE) == netns;
        Self(records.iter().filter(is_own).collect())
    }

    /// The records of accepts that returned a connection of this transport: `tcp` or `unix`.
    pub(super) fn accepts(&self, transport: &str) -> Vec<&'a Record> {
        let all = self.events(names::EVENT_ACCEPTD_SOCKET_ACCEPT, transport);
        all.filter(|record| record.attribute(names::ERROR_TYPE).is_empty()).collect()
    }

    /// How many connections of this transport were reported as closed without an accept.
    pub(super) fn abandoned(&self, transport: &str) -> u64 {
        self.events(names::EVENT_ACCEPTD_LISTENER_ABANDONED, transport).count() as u64
    }

    /// How many connection attempts of this transport were reported as refused because a queue was full.
    pub(super) fn overflows(&self, transport: &str) -> u64 {
        let counts = self.events(names::EVENT_ACCEPTD_LISTENER_OVERFLOW, transport);
        counts.filter_map(|record| record.attribute(names::ACCEPTD_OVERFLOW_COUNT).parse::<u64>().ok()).sum()
    }

    /// How often a listener was reported as stalled, or as no longer so.
    pub(super) fn stalls(&self) -> usize {
        let is_stall = |record: &&&Record| record.event_name == names::EVENT_ACCEPTD_LISTENER_STALLED;
        self.0.iter().filter(is_stall).count()
    }

    fn events(&self, name: &str, transport: &str) -> impl Iterator<Item = &'a Record> {
        self.0.iter().copied().filter(move |record| {
            record.event_name == name && record.attribute(names::NETWORK_TRANSPORT) == transport
        })
    }
}
