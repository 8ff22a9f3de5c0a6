//! The settings with which the eBPF programs are loaded; they become constants in the programs.

use std::path::PathBuf;

use acceptd_common::{SocketCall, trace};

use super::{
    filter::EventFilter,
    hooks::{Hook, OptionalHooks, Tier},
};

/// Everything that the agent decides about the programs before they are loaded.
#[derive(Debug, Clone)]
pub struct LoadSettings {
    /// The tier to use; `None` for the first tier that this kernel allows.
    pub tier: Option<Tier>,
    /// Names of programs that are treated as if the kernel had refused them (`capture.skip_hooks`).
    pub skip: Vec<String>,
    /// Size of the ring buffer in bytes; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Whether the agent's own accepts are recorded (`filter.self`).
    pub record_self: bool,
    /// Most records of failed accepts for one listener in one second.
    pub failure_budget: u64,
    /// Whether the service's name is read from the environment of processes that begin to listen
    /// (`resource.published`).
    pub service_names: bool,
    /// The events captured besides accepts. `listen` is always captured, because the agent keeps a table of
    /// listeners.
    pub optional: OptionalHooks,
    /// Which events pass the filter in the kernel.
    pub filter: EventFilter,
    /// Which connections are traced.
    pub traces: TraceSettings,
}

/// Which connections are traced, and where their state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSettings {
    /// Connections whose randomness ([`acceptd_common::trace`]) is at or above this threshold are traced.
    pub threshold: u64,
    /// Connections that waited at least this long in the accept queue are traced too, in nanoseconds.
    pub slow_ns: u64,
    /// The key that turns a socket cookie into randomness.
    pub key: [u64; 2],
    /// The folder in the BPF file system in which the maps of open connections are pinned; `None` to pin
    /// nothing.
    pub pins: Option<PathBuf>,
}

impl TraceSettings {
    /// No connection is traced.
    pub const DISABLED: Self = Self { threshold: trace::NEVER, slow_ns: u64::MAX, key: [0; 2], pins: None };

    pub(super) fn is_enabled(&self) -> bool {
        self.threshold < trace::NEVER || self.slow_ns < u64::MAX
    }
}

impl LoadSettings {
    /// The operations of [`SocketCall`] to capture: bit N stands for operation N.
    pub(super) fn operation_mask(&self) -> u64 {
        [
            (SocketCall::LISTEN, true),
            (SocketCall::BIND, self.optional.bind),
            (SocketCall::CREATE, self.optional.create),
            (SocketCall::ATTEMPT, self.optional.attempts),
        ]
        .into_iter()
        .map(|(operation, is_captured)| u64::from(is_captured) << operation)
        .sum()
    }

    pub(super) fn skips(&self, hook: &Hook) -> bool {
        self.skip.iter().any(|name| name == hook.original() || hook.replaces == Some(name.as_str()))
    }
}
