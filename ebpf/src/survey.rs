//! Passes over what is there: every open listener with its owner, and the connections that were queued before the
//! programs were attached.

use core::mem::size_of;

use acceptd_common::ListenerState;
use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_skc_to_tcp_sock};

use crate::{
    maps::ROW,
    offsets::*,
    open, pending,
    read::{probed, probed_ptr},
    send::zero,
    sock::{
        AF_INET, AF_INET6, AF_UNIX, Socket, is_known, make_cookie, {self},
    },
    task,
};

// include/net/tcp_states.h
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

/// One open file of one process. Of a listener, a row is written to `seq`.
#[inline(always)]
pub fn open_file(seq: *const u8, task: *const u8, fd: u32, file: *const u8) {
    let listener = sock::of_typed_file(file);
    if !listener.exists() || !listener.listens() || !is_known(listener.family()) {
        return;
    }
    let is_inet = matches!(listener.family(), AF_INET | AF_INET6);
    if is_inet {
        // So that accept can read it.
        make_cookie(listener.sk);
    }
    let Some(row) = ROW.get_ptr_mut(0) else { return };
    // SAFETY: a non-null map value, of which all-zero bytes are a valid one. One survey runs at a time.
    let out = unsafe {
        zero(row);
        &mut *row
    };
    task::other(task, &mut out.owner);
    listener.describe_listener(&mut out.listener);
    out.fd = fd as i32;
    if listener.family() == AF_UNIX {
        listener.unix_name(&mut out.name);
        oldest_of_unix(listener, out);
    } else if is_inet {
        oldest_of_inet(listener, out);
    }
    // A full buffer is made larger by the kernel, which then visits this file again.
    // SAFETY: the verifier knows `seq`; the row is of this size.
    unsafe { bpf_seq_write(seq as *mut _, row.cast(), size_of::<ListenerState>() as u32) };
}

/// The connection that the next accept takes, and since when it waits (`reqsk_queue_remove`,
/// include/net/request_sock.h).
#[inline(always)]
fn oldest_of_inet(listener: Socket, out: &mut ListenerState) {
    let request = probed_ptr(listener.identity(), &ACCEPT_QUEUE_HEAD);
    if request.is_null() {
        return;
    }
    let connection = Socket { sk: probed_ptr(request, &REQUEST_SK), inode: 0 };
    out.oldest = connection.sk as u64;
    out.oldest_since_ns = pending::oldest_since(listener, connection).unwrap_or_default();
}

/// What waits is a packet in the receive queue, whose end is the queue itself (`unix_accept`, net/unix/af_unix.c).
/// The kernel does not know since when.
#[inline(always)]
fn oldest_of_unix(listener: Socket, out: &mut ListenerState) {
    let queue = listener.sk.wrapping_add(SK_RECEIVE_NEXT.load() as usize);
    let first = probed_ptr(listener.sk, &SK_RECEIVE_NEXT);
    if first != queue {
        out.oldest = first as u64;
    }
}

/// One socket of the TCP hash tables. A connection that no file has yet is queued: its cookie is made, and
/// remembered without a time.
#[inline(always)]
pub fn tcp_socket(skc: *const u8) {
    // SAFETY: the verifier knows `skc` as a struct sock_common; null for what is no whole socket.
    let sk = unsafe { bpf_skc_to_tcp_sock(skc as *mut _) } as *const u8;
    if sk.is_null() {
        return;
    }
    if !is_queued(sk) {
        return open::is_there(Socket { sk, inode: 0 }.cookie());
    }
    let cookie = make_cookie(sk);
    pending::existed(sk, cookie);
    if !is_queued(sk) {
        // Accepted meanwhile, perhaps before it was remembered.
        let _ = pending::take(Socket { sk, inode: 0 });
    }
}

#[inline(always)]
fn is_queued(sk: *const u8) -> bool {
    let state: u8 = probed(sk, &SK_STATE);
    matches!(state, ESTABLISHED | CLOSE_WAIT) && probed_ptr(sk, &SK_SOCKET).is_null()
}
