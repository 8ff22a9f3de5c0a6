//! Log records and spans written as protobuf bytes: the accept ([`accept`]), every other event ([`event`]), and the parts of a
//! connection's trace ([`span`]).
//!
//! By hand, because encoding is the largest part of a record's cost otherwise (docs/results has the figures).
//! Every test decodes what is written here with opentelemetry-proto.

pub mod accept;
mod address;
mod attributes;
pub mod event;
pub mod span;

use std::fmt;

pub use accept::{Accept, Handshake, encode_accept};
pub use address::Endpoint;
pub use event::{Event, Value, encode_event};
pub use span::{Span, SpanKind, Threshold, encode_span};

/// `network.transport`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, also Multipath TCP.
    Tcp,
    /// SCTP.
    Sctp,
    /// UNIX sockets.
    Unix,
    /// VSOCK.
    Vsock,
}

impl Transport {
    /// The attribute's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Sctp => "sctp",
            Self::Unix => "unix",
            Self::Vsock => "vsock",
        }
    }
}

/// `network.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkType {
    /// IPv4, also on an IPv6 socket.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl NetworkType {
    /// The attribute's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// `acceptd.accept.syscall`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syscall {
    /// accept(2)
    Accept,
    /// accept4(2)
    Accept4,
    /// A request of io_uring.
    IoUring,
    /// The kernel itself.
    Kernel,
}

impl Syscall {
    /// The attribute's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Accept4 => "accept4",
            Self::IoUring => "io_uring",
            Self::Kernel => "kernel",
        }
    }
}

/// `log.record.uid`: the same for every copy of a record, another for every other record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordUid {
    /// Hash of host, boot and load of the programs.
    pub epoch: u64,
    /// CPU that captured the event; `ffff` for records made in user space.
    pub cpu: u16,
    /// Number of the event on that CPU; its low 48 bits are shown.
    pub sequence: u64,
}

impl fmt::Display for RecordUid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016X}-{:04X}-{:012X}", self.epoch, self.cpu, self.sequence & 0xffff_ffff_ffff)
    }
}

/// `network.type` of an address, where it has one.
#[must_use]
pub fn network_type(endpoint: &Endpoint<'_>) -> Option<NetworkType> {
    match endpoint {
        Endpoint::Ip { addr: std::net::IpAddr::V4(_), .. } => Some(NetworkType::Ipv4),
        Endpoint::Ip { addr: std::net::IpAddr::V6(_), .. } => Some(NetworkType::Ipv6),
        Endpoint::Vsock { .. } | Endpoint::Unix(_) => None,
    }
}
