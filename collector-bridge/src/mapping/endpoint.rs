//! Addresses of sockets: from the kernel's fields to endpoints, transports and what may be recorded of a
//! peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use acceptd_common::{
    Listener, UnixName,
    family::{AF_INET, AF_INET6, AF_UNIX, AF_VSOCK},
};
use acceptd_otlp::{SocketEndpoint, Transport};

use crate::{config::PeerAddress, identity::until_nul};

// include/linux/socket.h, include/uapi/linux/in.h, include/linux/net.h
const IPPROTO_SCTP: u16 = 132;
const IPPROTO_MPTCP: u16 = 262;
const SOCK_SEQPACKET: u16 = 5;

/// `network.transport` of a socket.
pub(super) fn transport(family: u16, protocol: u16) -> Transport {
    match (family, protocol) {
        (AF_UNIX, _) => Transport::Unix,
        (AF_VSOCK, _) => Transport::Vsock,
        (_, IPPROTO_SCTP) => Transport::Sctp,
        _ => Transport::Tcp,
    }
}

pub(super) fn is_mptcp(family: u16, protocol: u16) -> bool {
    !matches!(family, AF_UNIX | AF_VSOCK) && protocol == IPPROTO_MPTCP
}

/// `acceptd.socket.type`. The programs report only stream and seqpacket sockets.
pub(super) fn socket_type(number: u16) -> &'static str {
    if number == SOCK_SEQPACKET { "seqpacket" } else { "stream" }
}

/// The value, or `None` for 0, which is how the kernel's structs mark an unknown value.
pub(super) fn non_zero(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

/// One end of an internet or VSOCK socket, and whether its address was an IPv4-mapped IPv6 address, which is
/// returned as IPv4. `None` for a VSOCK socket that is not bound, or whose address the programs cannot read
/// on this kernel, and for an SMC listener whose TCP socket they cannot find.
pub(super) fn endpoint(family: u16, bytes: [u8; 16], port: u16) -> (Option<SocketEndpoint<'static>>, bool) {
    if !matches!(family, AF_INET | AF_INET6 | AF_VSOCK) {
        return (None, false);
    }
    match parse_endpoint(family, bytes, port) {
        // VMADDR_CID_ANY, VMADDR_PORT_ANY
        (SocketEndpoint::Vsock { cid: u32::MAX, port: u32::MAX }, _) => (None, false),
        (known, mapped) => (Some(known), mapped),
    }
}

fn parse_endpoint(family: u16, bytes: [u8; 16], port: u16) -> (SocketEndpoint<'static>, bool) {
    let port = u16::from_be(port);
    let ip = |addr| SocketEndpoint::Ip { addr, port };
    let [first, second, ..]: [[u8; 4]; 4] = zerocopy::transmute!(bytes);
    match family {
        AF_VSOCK => {
            let (cid, port) = (u32::from_ne_bytes(first), u32::from_ne_bytes(second));
            (SocketEndpoint::Vsock { cid, port }, false)
        }
        AF_INET6 => {
            let address = Ipv6Addr::from(bytes);
            address
                .to_ipv4_mapped()
                .map_or((ip(IpAddr::V6(address)), false), |mapped| (ip(IpAddr::V4(mapped)), true))
        }
        _ => (ip(IpAddr::V4(Ipv4Addr::from(first))), false),
    }
}

/// The part of a peer's endpoint that may be recorded.
pub(super) fn visible_peer(
    known: Option<SocketEndpoint<'_>>,
    setting: PeerAddress,
) -> Option<SocketEndpoint<'_>> {
    match (known?, setting) {
        (_, PeerAddress::Off) => None,
        (SocketEndpoint::Ip { addr, port }, PeerAddress::Prefix) => {
            Some(SocketEndpoint::Ip { addr: prefix(addr), port })
        }
        (known, _) => Some(known),
    }
}

/// The address with its host part zeroed: /24 of IPv4, /48 of IPv6. Names a site, not a person.
fn prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [first, second, third, _] = address.octets();
            IpAddr::V4(Ipv4Addr::new(first, second, third, 0))
        }
        IpAddr::V6(address) => {
            let [first, second, third, ..] = address.segments();
            // In a 6to4 address the second and third group are an IPv4 address: keep its /24.
            let third = if first == 0x2002 { third & 0xff00 } else { third };
            IpAddr::V6(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0))
        }
    }
}

/// The name of a UNIX socket; `None` if it has none. A path ends at its first NUL; an abstract name, which
/// begins with a NUL, is as long as its length field says.
pub(super) fn unix_endpoint(name: &UnixName) -> Option<SocketEndpoint<'_>> {
    match name.used() {
        [] => None,
        name @ [0, ..] => Some(SocketEndpoint::Unix(name)),
        path => Some(SocketEndpoint::Unix(until_nul(path))),
    }
}

/// The endpoint that a listener is bound to; `None` if it is unknown or unnamed.
pub(super) fn listener_endpoint<'a>(listener: &Listener, name: &'a UnixName) -> Option<SocketEndpoint<'a>> {
    match listener.family {
        0 => None,
        AF_UNIX => unix_endpoint(name),
        family => endpoint(family, listener.addr, listener.port).0,
    }
}

/// A listener's address for log messages.
#[must_use]
pub(crate) fn display_address(listener: &Listener, name: &UnixName) -> String {
    listener_endpoint(listener, name).map_or_else(|| "unnamed".to_owned(), |endpoint| endpoint.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    use super::*;

    fn ip(text: &str) -> SocketEndpoint<'static> {
        SocketEndpoint::Ip { addr: text.parse().expect("an address"), port: 443 }
    }

    fn six(text: &str) -> [u8; 16] {
        text.parse::<Ipv6Addr>().expect("an address").octets()
    }

    #[test]
    fn addresses_have_the_family_of_the_connection() {
        let port = 443_u16.to_be();
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[127, 0, 0, 9]);
        assert_eq!(endpoint(2, bytes, port), (Some(ip("127.0.0.9")), false));
        assert_eq!(endpoint(10, six("::ffff:10.0.0.1"), port), (Some(ip("10.0.0.1")), true));
        assert_eq!(endpoint(10, six("2001:db8::1"), port), (Some(ip("2001:db8::1")), false));
        bytes[..4].copy_from_slice(&2_u32.to_ne_bytes());
        bytes[4..8].copy_from_slice(&5005_u32.to_ne_bytes());
        assert_eq!(endpoint(40, bytes, 0), (Some(SocketEndpoint::Vsock { cid: 2, port: 5005 }), false));
        assert_eq!(endpoint(40, [0xff; 16], 0), (None, false), "not bound");
    }

    #[test]
    fn only_the_configured_part_of_a_peer_is_recorded() {
        use PeerAddress::{Full, Off, Prefix};
        for (known, full, prefix) in [
            (ip("192.0.2.77"), ip("192.0.2.77"), ip("192.0.2.0")),
            (ip("2001:db8:1:2::77"), ip("2001:db8:1:2::77"), ip("2001:db8:1::")),
            (ip("2002:c000:24d::1"), ip("2002:c000:24d::1"), ip("2002:c000:200::")),
            (
                SocketEndpoint::Unix(b"/run/x"),
                SocketEndpoint::Unix(b"/run/x"),
                SocketEndpoint::Unix(b"/run/x"),
            ),
        ] {
            assert_eq!(visible_peer(Some(known), Full), Some(full));
            assert_eq!(visible_peer(Some(known), Prefix), Some(prefix));
            assert_eq!(visible_peer(Some(known), Off), None);
        }
        assert_eq!(visible_peer(None, Full), None);
    }

    fn name(content: &[u8], length: u32) -> UnixName {
        let mut name = UnixName::new_zeroed();
        name.bytes[..content.len()].copy_from_slice(content);
        name.length = length;
        name
    }

    #[test]
    fn names_of_unix_sockets_have_a_length() {
        assert_eq!(unix_endpoint(&name(b"", 0)), None);
        assert_eq!(unix_endpoint(&name(b"/run/x.sock\0", 12)), Some(SocketEndpoint::Unix(b"/run/x.sock")));
        assert_eq!(unix_endpoint(&name(b"\0a\0b", 4)), Some(SocketEndpoint::Unix(b"\0a\0b")));
        assert_eq!(
            unix_endpoint(&name(b"\0a\0b\0", 5)),
            Some(SocketEndpoint::Unix(b"\0a\0b\0")),
            "a NUL counts"
        );
        // The longest path has no NUL at its end.
        assert_eq!(unix_endpoint(&name(&[b'x'; 108], 108)), Some(SocketEndpoint::Unix(&[b'x'; 108])));
    }

    proptest! {
        #[test]
        fn any_name_is_a_name_or_none(content in proptest::collection::vec(any::<u8>(), 0..=108), length: u32) {
            let name = name(&content, length);
            match unix_endpoint(&name) {
                None => prop_assert_eq!(length, 0),
                Some(SocketEndpoint::Unix(shown)) => {
                    prop_assert!(shown.len() <= 108 && name.bytes.starts_with(shown));
                    prop_assert!(!shown.is_empty());
                }
                Some(other) => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
