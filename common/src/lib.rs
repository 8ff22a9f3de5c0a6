//! The wire format between acceptd's eBPF programs and its agent: what a ring-buffer sample holds, which
//! counters the programs keep, and the limits both sides share.
//!
//! Both sides are built from one source and loaded together, so the format carries a version
//! ([`ABI_VERSION`]) to *detect* a mix of builds, not to translate between them. Integers are in host byte
//! order, addresses and ports in network byte order, and every struct spells out its padding.
#![no_std]
#![forbid(unsafe_code)]

pub mod counter;
pub mod filter;
pub mod histogram;
pub mod limits;
pub mod sample;
pub mod trace;

pub use counter::Counter;
pub use filter::FilterKey;
pub use sample::{
    Abandoned, Call, Client, Closed, Connection, FailureKey, Failures, Handshake, Header, InetAccept, Kind,
    Listener, ListenerState, Lives, Open, Peer, SocketCall, Task, Trace, UnixAccept, UnixName,
};

/// Version of every layout in this crate. It grows with each change of a struct, a kind or a counter.
pub const ABI_VERSION: u16 = 5;
