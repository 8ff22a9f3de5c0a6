//! Attribute values that are one of a few words: transport, network type and system call.

use std::net::IpAddr;

use super::address::SocketEndpoint;

/// `network.transport`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, Multipath TCP included.
    Tcp,
    /// SCTP.
    Sctp,
    /// UNIX sockets.
    Unix,
    /// VSOCK.
    Vsock,
}

impl Transport {
    /// The value of the attribute.
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
    /// The value of the attribute.
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
    /// An accept request of io_uring.
    IoUring,
    /// The kernel accepted the connection for itself.
    Kernel,
}

impl Syscall {
    /// The value of the attribute.
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

/// `network.type` of an endpoint; `None` for VSOCK and UNIX sockets.
#[must_use]
pub fn network_type(endpoint: &SocketEndpoint<'_>) -> Option<NetworkType> {
    match endpoint {
        SocketEndpoint::Ip { addr: IpAddr::V4(_), .. } => Some(NetworkType::Ipv4),
        SocketEndpoint::Ip { addr: IpAddr::V6(_), .. } => Some(NetworkType::Ipv6),
        SocketEndpoint::Vsock { .. } | SocketEndpoint::Unix(_) => None,
    }
}
