//! One end of a connection, as a record shows it.

use std::{
    fmt,
    io::{Cursor, Write as _},
    net::IpAddr,
};

use crate::text::escape_into;

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// Of the internet.
    Ip {
        /// IP address.
        addr: IpAddr,
        /// Port, host order.
        port: u16,
    },
    /// Of a virtual machine and its host.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// The name of a UNIX socket: a path, or NUL and an abstract name. Any bytes, never empty.
    Unix(&'a [u8]),
}

impl Endpoint<'_> {
    /// The port, where there are ports.
    pub(super) fn port(&self) -> Option<u64> {
        match self {
            Self::Ip { port, .. } => Some(u64::from(*port)),
            Self::Vsock { port, .. } => Some(u64::from(*port)),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        Shown::of(*self).write(&mut text, MAX_SHOWN);
        out.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Bytes of a UNIX name in a message, each of which may take four: all of it.
const MAX_SHOWN: usize = 512;

/// An endpoint whose address is formatted once.
pub(super) struct Shown<'a> {
    pub(super) endpoint: Endpoint<'a>,
    /// Of an IP address or a context id.
    text: Text<46>,
}

impl<'a> Shown<'a> {
    pub(super) fn of(endpoint: Endpoint<'a>) -> Self {
        let text = match endpoint {
            Endpoint::Ip { addr, .. } => Text::of_address(addr),
            Endpoint::Vsock { cid, .. } => Text::of(cid),
            Endpoint::Unix(_) => Text::of(""),
        };
        Self { endpoint, text }
    }

    /// The address alone: text without anything to escape, unless it is a UNIX socket's.
    pub(super) fn address(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Appends address and port, as a person writes them.
    pub(super) fn write(&self, out: &mut Vec<u8>, limit: usize) {
        match self.endpoint {
            Endpoint::Unix(name) => unix_name(out, name, limit),
            Endpoint::Ip { addr: IpAddr::V6(_), port } => {
                out.push(b'[');
                out.extend_from_slice(self.address());
                out.extend_from_slice(b"]:");
                number(out, port);
            }
            Endpoint::Ip { addr: IpAddr::V4(_), port } => {
                out.extend_from_slice(self.address());
                out.push(b':');
                number(out, port);
            }
            Endpoint::Vsock { port, .. } => {
                out.extend_from_slice(self.address());
                out.push(b':');
                number(out, port);
            }
        }
    }
}

/// A path as it is, an abstract name with `@` for its first NUL, as ss(8) and netstat(8) have it.
pub(super) fn unix_name(out: &mut Vec<u8>, name: &[u8], limit: usize) {
    match name {
        [0, rest @ ..] => {
            out.push(b'@');
            escape_into(out, rest, limit.saturating_sub(1));
        }
        path => escape_into(out, path, limit),
    }
}

pub(super) fn number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with one decimal place, rounded down.
pub(super) fn milliseconds(out: &mut Vec<u8>, nanos: u64) {
    let tenths = nanos / 100_000;
    number(out, tenths / 10);
    out.push(b'.');
    number(out, tenths % 10);
}

/// A short text on the stack.
pub(super) struct Text<const N: usize> {
    buffer: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// What fits of it.
    fn of(content: impl fmt::Display) -> Self {
        let mut cursor = Cursor::new([0; N]);
        // A text that does not fit is cut: every caller's N is the longest there is.
        _ = write!(cursor, "{content}");
        let length = usize::try_from(cursor.position()).unwrap_or(N);
        Self { buffer: cursor.into_inner(), length }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Text<46> {
    /// An address as RFC 5952 has it. IPv4 by hand: the formatting machinery costs as much as half a record.
    fn of_address(address: IpAddr) -> Self {
        let IpAddr::V4(address) = address else { return Self::of(address) };
        let mut text = Self { buffer: [0; 46], length: 0 };
        for (index, octet) in address.octets().into_iter().enumerate() {
            if index > 0 {
                text.push(b".");
            }
            text.push(itoa::Buffer::new().format(octet).as_bytes());
        }
        text
    }

    fn push(&mut self, piece: &[u8]) {
        self.buffer[self.length..self.length + piece.len()].copy_from_slice(piece);
        self.length += piece.len();
    }
}
