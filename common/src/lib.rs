//! The wire format between acceptd's eBPF programs and its agent: the samples in the ring buffer, the keys
//! and values of maps that both sides use, the counters, and the limits.
//!
//! Both sides are built from one source and loaded together. The version of the format ([`ABI_VERSION`])
//! therefore only *detects* a mix of builds; there is no translation between versions. Integers are in host
//! byte order, addresses and ports in network byte order, and every struct spells out its padding.
#![no_std]
#![forbid(unsafe_code)]

pub mod counter;
pub mod family;
pub mod filter;
pub mod histogram;
pub mod limits;
pub mod sample;
pub mod trace;

pub use counter::Counter;
pub use filter::{FilterKey, PeerPrefix};
pub use sample::{
    AcceptCall, ClientProcess, Connection, ConnectionAbandoned, ConnectionClosed, ConnectionStats,
    FailureKey, FailureStats, Handshake, Header, InetAccept, Kind, Listener, ListenerState, PeerProcess,
    RefusedAttempts, ServiceVariable, SocketCall, SurveyRow, Task, TraceDecision, TracedConnection,
    UnixAccept, UnixName, UnixTarget,
};

/// Version of every layout in this crate. Increase it with each change of a struct, a kind or a counter.
pub const ABI_VERSION: u16 = 7;
