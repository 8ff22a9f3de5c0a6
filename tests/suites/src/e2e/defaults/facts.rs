//! The facts about the servers of one sandbox, from other sources than acceptd: the servers' own word, and
//! the kernel's counters.

use std::collections::BTreeSet;

use crate::e2e::counters::Counters;

/// The facts of one sandbox.
pub(super) struct Facts {
    /// The inode of the network namespace.
    pub(super) netns: u64,
    pub(super) counters: Counters,
    pub(super) listeners: Vec<ListenerFacts>,
    /// The processes that lived in the sandbox before and after the connections; absent if a process lives
    /// for one connection only.
    pub(super) processes: Option<BTreeSet<u32>>,
    /// Half-open handshakes that were sent beside the connections.
    pub(super) probes: u16,
}

/// The facts of one listener.
pub(super) struct ListenerFacts {
    pub(super) name: &'static str,
    pub(super) reach: Reach,
    pub(super) report: Report,
    /// Connection attempts that were refused because the queue was full, by the client's own word. Not for
    /// TCP: the kernel counts these.
    pub(super) refused: u64,
    /// The names of the executables that may accept.
    pub(super) executables: Vec<String>,
    /// The names of the executables that may own the listener.
    pub(super) owners: Vec<String>,
    pub(super) service: Service,
}

/// The connections that a server says it accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// How many.
    Count(usize),
    /// The clients' ports.
    Ports(Vec<u16>),
}

impl Report {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Ports(ports) => ports.len(),
        }
    }
}

/// The right `service.name` of the processes of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Service {
    /// The `OTEL_SERVICE_NAME` with which the server was started.
    Named(String),
    /// `unknown_service:` with the executable's name: the processes that accept have another environment, or
    /// none any more when they begin to listen.
    Unnamed,
}

impl Service {
    /// Whether a process of this executable may have this `service.name`.
    pub(super) fn may_be(&self, service: &str, executable: &str) -> bool {
        let is_unnamed = service.strip_prefix("unknown_service:") == Some(executable);
        match self {
            Self::Named(name) => service == name,
            Self::Unnamed => is_unnamed,
        }
    }
}

/// Where a server listens.
pub(super) enum Reach {
    /// On a TCP port.
    Port(u16),
    /// On a UNIX socket of this path.
    Socket(&'static str),
}

impl Reach {
    /// The value of `network.transport`.
    pub(super) fn transport(&self) -> &'static str {
        match self {
            Self::Port(_) => "tcp",
            Self::Socket(_) => "unix",
        }
    }
}
