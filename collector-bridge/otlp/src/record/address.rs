//! The addresses in a record, and the fast formatting of addresses and numbers.

use std::{
    fmt,
    io::{Cursor, Write as _},
    net::IpAddr,
};

use crate::text::escape_into;

/// One end of a connection, or the address of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEndpoint<'a> {
    /// An IPv4 or IPv6 address.
    Ip {
        /// The IP address.
        addr: IpAddr,
        /// The port, in host byte order.
        port: u16,
    },
    /// A VSOCK address, between a virtual machine and its host.
    Vsock {
        /// The context id.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// The name of a UNIX socket: a path, or NUL and an abstract name. It may have any bytes, and is never
    /// empty.
    Unix(&'a [u8]),
}

impl SocketEndpoint<'_> {
    /// The port; `None` for a UNIX socket.
    pub(super) fn port(&self) -> Option<u64> {
        match self {
            Self::Ip { port, .. } => Some(u64::from(*port)),
            Self::Vsock { port, .. } => Some(u64::from(*port)),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for SocketEndpoint<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        FormattedEndpoint::new(*self).write(&mut text, MAX_UNIX_NAME_BYTES);
        out.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Bytes of a UNIX socket's address (`UNIX_PATH_MAX`, include/uapi/linux/un.h).
const UNIX_ADDRESS_BYTES: usize = 108;

/// Upper bound of a UNIX socket's escaped name: a name has up to 108 bytes, each of which may be escaped as
/// four.
const MAX_UNIX_NAME_BYTES: usize = 512;

/// An endpoint with its formatted address, so that body and attributes share one formatting.
pub(super) struct FormattedEndpoint<'a> {
    pub(super) endpoint: SocketEndpoint<'a>,
    /// The IP address or the context id; empty for a UNIX socket.
    text: StackText<46>,
}

impl<'a> FormattedEndpoint<'a> {
    pub(super) fn new(endpoint: SocketEndpoint<'a>) -> Self {
        let text = match endpoint {
            SocketEndpoint::Ip { addr, .. } => StackText::from_ip(addr),
            SocketEndpoint::Vsock { cid, .. } => StackText::format(cid),
            SocketEndpoint::Unix(_) => StackText::format(""),
        };
        Self { endpoint, text }
    }

    /// The IP address or the context id without its port. This text needs no escaping.
    pub(super) fn address(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Appends the address and the port in the usual notation, with IPv6 addresses in brackets.
    pub(super) fn write(&self, out: &mut Vec<u8>, limit: usize) {
        match self.endpoint {
            SocketEndpoint::Unix(name) => unix_name(out, name, limit),
            SocketEndpoint::Ip { addr: IpAddr::V6(_), port } => {
                out.push(b'[');
                out.extend_from_slice(self.address());
                out.extend_from_slice(b"]:");
                number(out, port);
            }
            SocketEndpoint::Ip { addr: IpAddr::V4(_), port } => {
                out.extend_from_slice(self.address());
                out.push(b':');
                number(out, port);
            }
            SocketEndpoint::Vsock { port, .. } => {
                out.extend_from_slice(self.address());
                out.push(b':');
                number(out, port);
            }
        }
    }
}

/// Appends the name of a UNIX socket: a path as it is, an abstract name with `@` for its leading NUL as ss(8)
/// and netstat(8) show it. If an abstract name fills all of the address, the NULs at its end are padding, and
/// are not shown. A relative path that begins with `@` is shown with `./` before it, so that it does not look
/// abstract.
pub(super) fn unix_name(out: &mut Vec<u8>, name: &[u8], limit: usize) {
    match name {
        [0, rest @ ..] => {
            let is_padded = name.len() == UNIX_ADDRESS_BYTES;
            let used = rest.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let shown = if is_padded { &rest[..used] } else { rest };
            out.push(b'@');
            escape_into(out, shown, limit.saturating_sub(1));
        }
        [b'@', ..] => {
            out.extend_from_slice(b"./");
            escape_into(out, name, limit.saturating_sub(2));
        }
        path => escape_into(out, path, limit),
    }
}

pub(super) fn number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends nanoseconds as milliseconds with one decimal place, rounded down.
pub(super) fn milliseconds(out: &mut Vec<u8>, nanos: u64) {
    let tenths = nanos / 100_000;
    number(out, tenths / 10);
    out.push(b'.');
    number(out, tenths % 10);
}

/// A short text on the stack, of at most `N` bytes.
pub(super) struct StackText<const N: usize> {
    buffer: [u8; N],
    length: usize,
}

impl<const N: usize> StackText<N> {
    /// Formats `content`, and cuts it at `N` bytes.
    fn format(content: impl fmt::Display) -> Self {
        let mut cursor = Cursor::new([0; N]);
        // An error means that the text was cut. It does not occur: each caller's N is the longest possible
        // text.
        _ = write!(cursor, "{content}");
        let length = usize::try_from(cursor.position()).unwrap_or(N);
        Self { buffer: cursor.into_inner(), length }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl StackText<46> {
    /// Formats an address as in RFC 5952. IPv4 is formatted by hand, because the formatting machinery costs
    /// as much as half a record.
    fn from_ip(address: IpAddr) -> Self {
        let IpAddr::V4(address) = address else { return Self::format(address) };
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

#[cfg(test)]
mod tests {
    use super::SocketEndpoint;

    #[test]
    fn names_of_unix_sockets_are_shown_for_people() {
        let mut padded = [0; 108];
        padded[..4].copy_from_slice(b"\0a\0b");
        for (name, shown) in [
            (&b"/run/x.sock"[..], "/run/x.sock"),
            (b"x.sock", "x.sock"),
            (b"\0x", "@x"),
            (b"@x", "./@x"),
            (b"/tmp/@x", "/tmp/@x"),
            (b"\0a\0b\0", r"@a\x00b\x00"),
            (&padded, r"@a\x00b"),
            (&[0; 108], "@"),
        ] {
            assert_eq!(SocketEndpoint::Unix(name).to_string(), shown, "{}", name.escape_ascii());
        }
    }
}
