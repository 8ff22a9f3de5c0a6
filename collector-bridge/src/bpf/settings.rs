//! What is decided before the programs are loaded.

use std::path::PathBuf;

use acceptd_common::{SocketCall, trace};

use super::hooks::{Hook, Tier, Wanted};
use crate::bpf::filter::Filter;

/// What the agent decides about the programs before they are loaded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The tier; without it the first one that this kernel allows.
    pub tier: Option<Tier>,
    /// Programs that are treated as though the kernel refused them.
    pub skip: Vec<String>,
    /// Bytes of the ring buffer; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Whether accepts of the agent's own are recorded.
    pub record_self: bool,
    /// Failure records for each listener and second.
    pub failure_budget: u64,
    /// What is captured beside accepts. Listens always are: the agent keeps a list of listeners.
    pub wanted: Wanted,
    /// What is captured at all.
    pub filter: Filter,
    /// Which connections have a trace.
    pub traces: Traces,
}

/// Which connections have a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Those whose randomness ([`acceptd_common::trace`]) is not below this.
    pub threshold: u64,
    /// Those that waited so long, in nanoseconds.
    pub slow_ns: u64,
    /// The key of the randomness.
    pub key: [u64; 2],
    /// A folder of the BPF file system, where what is known of open connections outlives the agent.
    pub pins: Option<PathBuf>,
}

impl Traces {
    /// None.
    pub const NONE: Self = Self { threshold: trace::NEVER, slow_ns: u64::MAX, key: [0; 2], pins: None };

    pub(super) fn is_any(&self) -> bool {
        self.threshold < trace::NEVER || self.slow_ns < u64::MAX
    }
}

impl Settings {
    /// Bit N: operation N of [`SocketCall`].
    pub(super) fn related(&self) -> u64 {
        [
            (SocketCall::LISTEN, true),
            (SocketCall::BIND, self.wanted.bind),
            (SocketCall::CREATE, self.wanted.create),
            (SocketCall::ATTEMPT, self.wanted.attempts),
        ]
        .into_iter()
        .map(|(operation, wanted)| u64::from(wanted) << operation)
        .sum()
    }

    pub(super) fn skips(&self, hook: &Hook) -> bool {
        self.skip.iter().any(|name| name == hook.program)
    }
}
