//! From a sample to the record's fields: what the kernel's numbers are called in OpenTelemetry. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use acceptd_common::InetAccept;
use acceptd_otlp::{Accept, Endpoint, NetworkType, Syscall, Transport};

use crate::{
    clock::Clock,
    identity::{Identity, until_nul},
    ids::{Connection, Ids, Role},
};

// include/linux/socket.h, include/uapi/linux/in.h
const AF_INET6: u16 = 10;
const IPPROTO_SCTP: u16 = 132;
const IPPROTO_MPTCP: u16 = 262;

/// The record of one accept. `observed` is when user space read the sample, nanoseconds since the Unix epoch.
#[must_use]
pub fn accept<'a>(
    sample: &'a InetAccept,
    identity: &'a Identity,
    ids: &Ids,
    clock: &Clock,
    observed: u64,
) -> Accept<'a> {
    let has = |flag| sample.flags & flag != 0;
    let uid = ids.record(sample.header.cpu, sample.header.sequence);
    let failed = sample.result < 0;
    let trace = (!failed).then(|| {
        let name = non_zero(sample.cookie).map_or(Connection::Record(uid), Connection::Cookie);
        ids.trace(name, Role::Connection)
    });

    let socket = has(InetAccept::HAS_SOCKET).then(|| {
        let local = address(sample.family, sample.local_addr);
        let peer = address(sample.family, sample.peer_addr);
        (endpoint(local, sample.local_port), endpoint(peer, sample.peer_port))
    });
    let listener = has(InetAccept::HAS_LISTENER)
        .then(|| endpoint(address(sample.listener_family, sample.listener_addr), sample.listener_port));
    let shown = socket.map(|(local, _)| local).or(listener);

    Accept {
        time_unix_nano: clock.unix_nanos(sample.header.boot_ns),
        observed_time_unix_nano: observed,
        uid,
        trace_id: trace.map(|(trace, _)| trace),
        span_id: trace.map(|(_, span)| span),
        errno: failed.then(|| sample.result.saturating_neg()),
        transport: if sample.protocol == IPPROTO_SCTP { Transport::Sctp } else { Transport::Tcp },
        network_type: shown.map(|(endpoint, _)| match endpoint.addr {
            IpAddr::V4(_) => NetworkType::Ipv4,
            IpAddr::V6(_) => NetworkType::Ipv6,
        }),
        v4_mapped: socket.is_some_and(|((_, mapped), _)| mapped),
        mptcp: sample.protocol == IPPROTO_MPTCP,
        local: socket.map(|((local, _), _)| local),
        peer: socket.map(|(_, (peer, _))| peer),
        listener: listener.map(|(listener, _)| listener),
        socket_cookie: non_zero(sample.cookie),
        listener_cookie: non_zero(sample.listener_cookie),
        socket_inode: non_zero(sample.inode),
        listener_inode: non_zero(sample.listener_inode),
        socket_fd: (!failed).then_some(sample.result),
        listener_fd: Some(sample.listener_fd),
        backlog_length: has(InetAccept::HAS_LISTENER).then_some(sample.backlog_length),
        backlog_limit: has(InetAccept::HAS_LISTENER).then_some(sample.backlog_limit),
        queue_time_ns: has(InetAccept::HAS_QUEUE_TIME).then_some(sample.queue_ns),
        blocked_time_ns: None,
        syscall: if sample.syscall == InetAccept::SYSCALL_ACCEPT4 {
            Syscall::Accept4
        } else {
            Syscall::Accept
        },
        verified: failed || has(InetAccept::VERIFIED),
        self_accept: has(InetAccept::SELF_ACCEPT),
        thread_id: sample.task.tid,
        thread_name: until_nul(&sample.task.comm),
        netns_inode: sample.netns,
        capture_tier: sample.tier,
        process_name: &identity.name,
        pid: sample.task.tgid,
    }
}

fn non_zero(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

/// An address, and whether it was an IPv4-mapped IPv6 one. Those are shown as IPv4.
fn address(family: u16, bytes: [u8; 16]) -> (IpAddr, bool) {
    if family != AF_INET6 {
        let [a, b, c, d, ..] = bytes;
        return (Ipv4Addr::new(a, b, c, d).into(), false);
    }
    let address = Ipv6Addr::from(bytes);
    address.to_ipv4_mapped().map_or((address.into(), false), |mapped| (mapped.into(), true))
}

fn endpoint((addr, mapped): (IpAddr, bool), port: u16) -> (Endpoint, bool) {
    (Endpoint { addr, port: u16::from_be(port) }, mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_the_family_that_was_spoken() {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[127, 0, 0, 9]);
        assert_eq!(address(2, bytes), ("127.0.0.9".parse().expect("an address"), false));
        let mapped = "::ffff:10.0.0.1".parse::<Ipv6Addr>().expect("an address").octets();
        assert_eq!(address(10, mapped), ("10.0.0.1".parse().expect("an address"), true));
        let six = "2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets();
        assert_eq!(address(10, six), ("2001:db8::1".parse().expect("an address"), false));
    }
}
