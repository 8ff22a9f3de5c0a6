//! `SO_COOKIE` as applications see it: the agent must not change it.

use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, Protocol, SocketAddrAny, SocketAddrUnix, SocketType, accept, bind, connect, getsockname,
    listen, socket, sockopt::socket_cookie,
};

use crate::{agent::Agent, raw};

/// `IPPROTO_MPTCP`, include/uapi/linux/in.h.
const MPTCP: u32 = 262;

/// A kind of sockets, and how to make one.
struct Kind {
    name: &'static str,
    open: fn() -> OwnedFd,
    /// An address to bind to that the kernel completes.
    address: fn() -> SocketAddrAny,
}

const TCP: Kind = Kind {
    name: "TCP",
    open: || socket(AddressFamily::INET, SocketType::STREAM, None).expect("TCP"),
    address: loopback,
};
const MULTIPATH: Kind = Kind {
    name: "MPTCP",
    open: || {
        let protocol = Protocol::from_raw(MPTCP.try_into().expect("not 0"));
        socket(AddressFamily::INET, SocketType::STREAM, Some(protocol)).expect("Multipath TCP")
    },
    address: loopback,
};
const UNIX: Kind = Kind {
    name: "UNIX",
    open: || socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("UNIX"),
    // An address without a name: the kernel chooses an abstract one (autobind).
    address: || SocketAddrUnix::new_unnamed().into(),
};
const SCTP: Kind = Kind { name: "SCTP", open: || raw::sctp_socket().expect("SCTP"), address: loopback };
const VSOCK: Kind = Kind {
    name: "VSOCK",
    open: || socket(AddressFamily::VSOCK, SocketType::STREAM, None).expect("VSOCK"),
    // VMADDR_CID_LOCAL and VMADDR_PORT_ANY, include/uapi/linux/vm_sockets.h.
    address: || raw::vsock_address(1, u32::MAX),
};

fn loopback() -> SocketAddrAny {
    SocketAddr::from(([127, 0, 0, 1], 0)).into()
}

/// When an application asks for the cookie of its listener.
#[derive(Debug, Clone, Copy)]
enum Asked {
    BeforeTheAccepts,
    AfterTheAccepts,
}

fn listener(kind: &Kind) -> OwnedFd {
    let listener = (kind.open)();
    bind(&listener, &(kind.address)()).expect("a free address");
    listen(&listener, 5).expect("bound");
    listener
}

/// Accepts three connections, and returns which of the four cookies are the same: for each the position of
/// the first with its value. The listener's is the last one.
fn pattern(kind: &Kind, listener: &OwnedFd, asked: Asked) -> Vec<usize> {
    let cookie = |socket: &OwnedFd| socket_cookie(socket).expect("SO_COOKIE");
    if let Asked::BeforeTheAccepts = asked {
        cookie(listener);
    }
    let address = getsockname(listener).expect("bound");
    let open: Vec<_> = (0..3)
        .map(|_| {
            let client = (kind.open)();
            connect(&client, &address).expect("the listener is up");
            (accept(listener).expect("a connection"), client)
        })
        .collect();
    let cookies: Vec<_> = open.iter().map(|(accepted, _)| accepted).chain([listener]).map(cookie).collect();
    assert!(cookies.iter().all(|cookie| *cookie != 0), "{}: {cookies:?}", kind.name);
    cookies.iter().filter_map(|cookie| cookies.iter().position(|other| other == cookie)).collect()
}

/// Compares [`pattern`] without and with the agent, for listeners that exist when the agent starts and for
/// later ones.
fn compare(kinds: &[Kind]) {
    const ASKED: [Asked; 2] = [Asked::AfterTheAccepts, Asked::BeforeTheAccepts];
    let cases: Vec<_> = kinds.iter().flat_map(|kind| ASKED.map(|asked| (kind, asked))).collect();
    let without: Vec<_> = cases.iter().map(|(kind, asked)| pattern(kind, &listener(kind), *asked)).collect();
    let older: Vec<_> = cases.iter().map(|(kind, _)| listener(kind)).collect();
    let agent = Agent::with_flags(&["--set", "events.accept_attempt=true"]);
    for (((kind, asked), without), older) in cases.iter().zip(&without).zip(&older) {
        let name = kind.name;
        assert_eq!(&pattern(kind, older, *asked), without, "{name}, {asked:?}, an older listener");
        assert_eq!(&pattern(kind, &listener(kind), *asked), without, "{name}, {asked:?}, a new listener");
    }
    let _ = agent.stop();
}

/// TCP, Multipath TCP and UNIX sockets.
pub(super) fn as_without_the_agent() {
    compare(&[TCP, MULTIPATH, UNIX]);
}

/// From Linux 7 on, an accepted SCTP socket inherits the cookie of its listener.
pub(super) fn of_sctp_as_without_the_agent() {
    compare(&[SCTP]);
}

/// VSOCK sockets.
pub(super) fn of_vsock_as_without_the_agent() {
    compare(&[VSOCK]);
}
