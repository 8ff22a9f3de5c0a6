//! The life of TCP sockets, from `inet_sock_set_state` and `tcp_destroy_sock`: connections that reach an
//! accept queue, connections that close, listeners that close, and connects by processes of this host.
//!
//! These hooks run in softirq or in the client's process, so the current task says nothing about the server.
//! Only at CLOSE→SYN_SENT is the current task known: the process that connects.

use acceptd_common::{ConnectionAbandoned, Counter, ListenerState};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

use crate::{
    closing, connections,
    copies::must_handle_transition,
    count, failure, filter,
    offsets::*,
    overflow, own, peers,
    pending::{self, Pending},
    send::send,
    sock::TypedSock,
    task, traced,
    uapi::{
        IPPROTO_MPTCP, TCP_CLOSE, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_LISTEN, TCP_SYN_RECV,
        TCP_SYN_SENT,
    },
};

/// `sk` goes from TCP state `old` to `new`. Each of these may be done twice for one transition.
#[inline(always)]
pub fn changed(copy: u8, sk: TypedSock, old: u8, new: u8) {
    if !must_handle_transition(copy, sk, new) {
        return;
    }
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
        // The thread that closes the connection may not be there any more when the state is CLOSE.
        TCP_FIN_WAIT1 | TCP_LAST_ACK if failure::has_lost_connection() => pending::mark_lost(sk),
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

/// Reports the final state of a listener, with the number of connections that it dropped. The current process
/// is the last one that had it open, or a kernel thread that closes it for that process. The main socket of
/// an MPTCP listener reports nothing, since its first subflow does.
#[inline(always)]
fn listener_closed(sk: TypedSock) {
    if sk.load::<u16>(&SK_PROTOCOL) == IPPROTO_MPTCP {
        return;
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    closing::listener_closes(sk, now);
    count::add(Counter::OtherEvents);
    if !filter::passes_socket(sk.probed()) {
        return count::add(Counter::Filtered);
    }
    send(
        now,
        #[inline(always)]
        |out: &mut ListenerState| {
            task::describe_current(&mut out.owner);
            sk.probed().describe_listener(0, &mut out.listener);
            overflow::describe(sk.probed(), &mut out.refused);
        },
    );
}

#[inline(always)]
fn connection_closed(sk: TypedSock) {
    let cookie = sk.cookie();
    if cookie == 0 || own::closed(cookie) {
        return;
    }
    if sk.was_accepted() {
        // Not abandoned, even if no program saw the accept; unless that failed with the connection in hand.
        let pending = pending::take(sk);
        if pending.is_lost() || pending.may_be_lost() && failure::has_lost_connection() {
            report_abandoned(sk, pending);
        } else if pending.may_be_lost() {
            peers::forget_client(pending.client);
        }
    } else if sk.load::<i32>(&SK_ERR) == 0 {
        // A connection with an error (reset by the peer, timed out) stays in the queue, and accept returns
        // it. Without an error the queue itself closes, with its listener (`inet_csk_listen_stop`,
        // net/ipv4/inet_connection_sock.c).
        let pending = pending::take(sk);
        if pending.is_waiting() {
            report_abandoned(sk, pending);
        }
    }
}

/// The kernel frees the socket.
#[inline(always)]
pub fn destroyed(sk: TypedSock) {
    // A connection that was ever pending has a cookie.
    if sk.cookie() != 0 {
        forget_pending(sk);
        closing::socket_destroyed(sk);
        traced::closed(sk, 0);
        connections::count_closed(sk);
    }
}

/// Forgets a connection that had an error when its state became CLOSE. If it was in the queue until its
/// listener closed, it is abandoned.
#[inline(always)]
fn forget_pending(sk: TypedSock) {
    let pending = pending::take(sk);
    let is_abandoned = pending.is_lost()
        || pending.is_waiting() && closing::listener_of(sk, pending.established_ns) != 0
        || pending.may_be_lost() && failure::has_lost_connection();
    if is_abandoned {
        report_abandoned(sk, pending);
    } else if pending.may_be_lost() {
        peers::forget_client(pending.client);
    }
}

/// Reports a connection that was never accepted.
#[inline(always)]
fn report_abandoned(sk: TypedSock, pending: Pending) {
    peers::forget_client(pending.client);
    count::add(Counter::OtherEvents);
    if own::opened(sk.probed()) && !own::are_reported() {
        return count::add(Counter::SelfAccept);
    }
    if !filter::passes_connection(sk.probed()) {
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
            out.listener_cookie = closing::listener_of(sk, since);
        },
    );
}
