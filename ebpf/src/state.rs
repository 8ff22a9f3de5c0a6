//! The life of TCP sockets, from `inet_sock_set_state` and `tcp_destroy_sock`: connections that reach an
//! accept queue, connections that close, listeners that close, and connects by processes of this host.
//!
//! These hooks run in softirq or in the client's process, so the current task says nothing about the server.
//! Only at CLOSE→SYN_SENT is the current task known: the process that connects.

use acceptd_common::{ConnectionAbandoned, Counter, ListenerState};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

use crate::{
    connections, count, filter,
    offsets::*,
    own, peers, pending,
    send::send,
    sock::TypedSock,
    traced,
    uapi::{IPPROTO_MPTCP, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT},
};

/// `sk` goes from TCP state `old` to `new`.
#[inline(always)]
pub fn changed(sk: TypedSock, old: u8, new: u8) {
    match new {
        TCP_ESTABLISHED if old == TCP_SYN_RECV => {
            let cookie = sk.make_cookie();
            pending::store_established(sk, cookie, peers::server_established(sk.probed()));
        }
        TCP_ESTABLISHED if old == TCP_SYN_SENT => {
            own::established(sk);
            peers::client_established(sk);
        }
        TCP_SYN_SENT => connecting(sk),
        TCP_LISTEN => {
            // Accept can then read the listener's cookie.
            sk.make_cookie();
        }
        TCP_CLOSE if old == TCP_LISTEN => listener_closed(sk),
        TCP_CLOSE => {
            connection_closed(sk);
            peers::client_closed(sk);
            traced::closed(sk, old);
            connections::count_closed(sk);
        }
        _ => {}
    }
}

#[inline(always)]
fn connecting(sk: TypedSock) {
    if own::is_current_process() { own::connecting(sk) } else { peers::client_connecting(sk) }
}

/// Reports the final state of a listener, with the number of connections that it dropped. The main socket of
/// an MPTCP listener reports nothing, since its first subflow does.
#[inline(always)]
fn listener_closed(sk: TypedSock) {
    if sk.load::<u16>(&SK_PROTOCOL) == IPPROTO_MPTCP {
        return;
    }
    count::add(Counter::OtherEvents);
    if !filter::passes_socket(sk.probed()) {
        return count::add(Counter::Filtered);
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    send(
        now,
        #[inline(always)]
        |out: &mut ListenerState| sk.probed().describe_listener(0, &mut out.listener),
    );
}

#[inline(always)]
fn connection_closed(sk: TypedSock) {
    let cookie = sk.cookie();
    if cookie == 0 || own::closed(cookie) {
        return;
    }
    // A connection with an error (reset by the peer, timed out) stays in the queue, and accept returns it.
    // Without an error the queue itself closes, with its listener (`inet_csk_listen_stop`,
    // net/ipv4/inet_connection_sock.c).
    if sk.load::<i32>(&SK_ERR) == 0 {
        report_if_abandoned(sk);
    }
}

/// The kernel frees the socket.
#[inline(always)]
pub fn destroyed(sk: TypedSock) {
    // A connection that was ever pending has a cookie.
    if sk.cookie() != 0 {
        report_if_abandoned(sk);
        traced::closed(sk, 0);
        connections::count_closed(sk);
    }
}

/// Reports a connection that closes while it still waits to be accepted.
#[inline(always)]
fn report_if_abandoned(sk: TypedSock) {
    let pending = pending::take_closed(sk);
    if !pending.is_waiting() {
        return;
    }
    peers::forget_client(pending.client);
    count::add(Counter::OtherEvents);
    if own::opened(sk.probed()) && !own::are_reported() {
        return count::add(Counter::SelfAccept);
    }
    if !filter::passes_socket(sk.probed()) {
        return count::add(Counter::Filtered);
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    send(
        now,
        #[inline(always)]
        |out: &mut ConnectionAbandoned| {
            sk.probed().describe_connection(0, &mut out.socket);
            let since = pending.established_ns;
            out.queue_ns = if since == 0 { 0 } else { now.saturating_sub(since) };
        },
    );
}
