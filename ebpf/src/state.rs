//! `inet_sock_set_state` and `tcp_destroy_sock`: connections that wait to be accepted, those that nobody accepted,
//! listeners, and the agent's own connections.
//!
//! They run in softirq or in the client: the current task says nothing about the server. The one exception is
//! CLOSE→SYN_SENT, where it is the process that connects.

use acceptd_common::{Abandoned, Counter, ListenerState};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns};

use crate::{
    accept::opened_by_agent,
    count, filter, lives,
    maps::{OWN_BY_COOKIE, OWN_BY_TUPLE},
    offsets::*,
    open, peers, pending,
    read::typed,
    send::send,
    sock::{IPPROTO_MPTCP, Socket, Tuple, make_cookie},
};

// include/net/tcp_states.h
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

#[inline(always)]
pub fn changed(sk: *const u8, old: u8, new: u8) {
    match new {
        ESTABLISHED if old == SYN_RECV => {
            let cookie = make_cookie(sk);
            pending::established(sk, cookie, peers::reached(Socket { sk, inode: 0 }));
        }
        ESTABLISHED if old == SYN_SENT => {
            own_established(sk);
            peers::established(sk);
        }
        SYN_SENT => connecting(sk),
        LISTEN => {
            // Gives the listener its cookie, which accept can then read.
            make_cookie(sk);
        }
        CLOSE if old == LISTEN => listener_closed(sk),
        CLOSE => {
            closed(sk);
            peers::closed(sk);
            open::ended(sk, old);
            lives::ended(sk);
        }
        _ => {}
    }
}

#[inline(always)]
fn connecting(sk: *const u8) {
    if bpf_get_current_pid_tgid() >> 32 != AGENT_TGID.load() {
        return peers::connecting(sk);
    }
    let cookie = make_cookie(sk);
    // The port is not chosen yet: the addresses follow at ESTABLISHED.
    let unknown = Tuple::NONE;
    if OWN_BY_COOKIE.insert(&cookie, &unknown, 0).is_err() {
        count::add(Counter::OwnFull);
    }
}

#[inline(always)]
fn own_established(sk: *const u8) {
    let cookie: u64 = typed(sk, &SK_COOKIE);
    let Some(tuple) = OWN_BY_COOKIE.get_ptr_mut(&cookie) else { return };
    let own = Socket { sk, inode: 0 }.connected_tuple();
    // SAFETY: a non-null map value.
    unsafe { *tuple = own };
    if OWN_BY_TUPLE.insert(&own, &1, 0).is_err() {
        count::add(Counter::OwnFull);
    }
}

/// The last word of a listener: how many connections it dropped. The main socket of an MPTCP listener is silent, its
/// first subflow speaks for it.
#[inline(always)]
fn listener_closed(sk: *const u8) {
    if typed::<u16>(sk, &SK_PROTOCOL) == IPPROTO_MPTCP {
        return;
    }
    let listener = Socket { sk, inode: 0 };
    count::add(Counter::Other);
    if !filter::passes_socket(listener) {
        return count::add(Counter::Filtered);
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    send(
        now,
        #[inline(always)]
        |out: &mut ListenerState| listener.describe_listener(&mut out.listener),
    );
}

#[inline(always)]
fn closed(sk: *const u8) {
    let cookie: u64 = typed(sk, &SK_COOKIE);
    if cookie == 0 {
        return;
    }
    if let Some(tuple) = OWN_BY_COOKIE.get_ptr(&cookie) {
        // SAFETY: a non-null map value.
        let own = unsafe { *tuple };
        let _ = OWN_BY_TUPLE.remove(&own);
        let _ = OWN_BY_COOKIE.remove(&cookie);
        return;
    }
    // A connection with an error (reset by the peer, timed out) stays in the queue, and accept returns it. Without
    // one it is the queue that ends, with its listener (`inet_csk_listen_stop`, net/ipv4/inet_connection_sock.c).
    if typed::<i32>(sk, &SK_ERR) == 0 {
        never_accepted(sk);
    }
}

/// The socket is gone for good.
#[inline(always)]
pub fn destroyed(sk: *const u8) {
    // What was ever pending has a cookie.
    if typed::<u64>(sk, &SK_COOKIE) != 0 {
        never_accepted(sk);
        open::ended(sk, 0);
        lives::ended(sk);
    }
}

/// Tells of a connection if it is still pending.
#[inline(always)]
fn never_accepted(sk: *const u8) {
    let connection = Socket { sk, inode: 0 };
    let pending = pending::take_ended(connection);
    if !pending.waits() {
        return;
    }
    peers::done(pending.client);
    count::add(Counter::Other);
    if opened_by_agent(connection) && RECORD_SELF.load() == 0 {
        return count::add(Counter::SelfAccept);
    }
    if !filter::passes_socket(connection) {
        return count::add(Counter::Filtered);
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    send(
        now,
        #[inline(always)]
        |out: &mut Abandoned| {
            connection.describe_connection(&mut out.socket);
            let since = pending.established_ns;
            out.queue_ns = if since == 0 { 0 } else { now.saturating_sub(since) };
        },
    );
}
