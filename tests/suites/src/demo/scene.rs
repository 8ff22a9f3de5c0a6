//! The connections that the demo makes. This process is both client and server: the kernel completes a
//! handshake on loopback before the server accepts, so one thread suffices, and it decides how long a
//! connection waits in the queue.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{host, records::Record};

/// How long a connection waits in the queue; the others wait microseconds.
const IN_QUEUE: Duration = Duration::from_millis(250);

/// One connection with its addresses.
pub(crate) struct Connection {
    what: &'static str,
    peer: SocketAddr,
    local: SocketAddr,
}

/// A name, the address to listen on, the address to connect to, and the time in the accept queue.
type Scene = (&'static str, IpAddr, IpAddr, Duration);

const SCENES: [Scene; 4] = [
    ("IPv4", IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST), Duration::ZERO),
    (
        "IPv4, left in the queue for 250 ms",
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IN_QUEUE,
    ),
    ("IPv6", IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), Duration::ZERO),
    (
        "IPv4 into an IPv6 socket",
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        Duration::ZERO,
    ),
];

/// Makes the connections, one after the other.
pub(crate) fn play() -> Result<Vec<Connection>> {
    let ipv6 = host::has_ipv6();
    if !ipv6 {
        eprintln!("this host has no IPv6 loopback: the connections over it are skipped");
    }
    SCENES.iter().filter(|(_, listen, ..)| ipv6 || listen.is_ipv4()).map(connect).collect()
}

fn connect((what, listen, to, wait): &Scene) -> Result<Connection> {
    let listener = TcpListener::bind((*listen, 0)).with_context(|| format!("no port is free on {listen}"))?;
    let client = TcpStream::connect((*to, listener.local_addr()?.port()))?;
    sleep(*wait);
    listener.accept()?;
    Ok(Connection { what, peer: client.local_addr()?, local: client.peer_addr()? })
}

impl Connection {
    /// Whether a record describes this connection.
    pub(crate) fn is_described_by(&self, record: &Record) -> bool {
        let is = |end: &SocketAddr, address: &str, port: &str| {
            record.attribute(address) == end.ip().to_string()
                && record.attribute(port) == end.port().to_string()
        };
        record.resource("process.pid") == std::process::id().to_string()
            && is(&self.local, "network.local.address", "network.local.port")
            && is(&self.peer, "network.peer.address", "network.peer.port")
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {} -> {}", self.what, self.peer, self.local)
    }
}
