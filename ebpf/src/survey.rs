//! Surveys what exists already: every open listener with its owner, and the connections that were queued
//! before the programs were attached.

use core::mem::size_of;

use acceptd_common::ListenerState;
use aya_ebpf::{helpers::generated::bpf_seq_write, macros::map, maps::Array};

use crate::{
    offsets::*,
    pending,
    read::{AnyStruct, File, Probed, Task, Typed},
    send::zero,
    sock::{ProbedSock, TypedSock, is_recorded_family},
    task, traced,
    uapi::{AF_INET, AF_INET6, AF_UNIX, TCP_CLOSE_WAIT, TCP_ESTABLISHED},
};

/// The row that the survey fills, which is too large for the stack. The agent runs one survey at a time.
#[map]
static SURVEY_ROW: Array<ListenerState> = Array::with_max_entries(1, 0);

/// Visits one open file of one process. If it is a listener, writes a row to `seq` (`struct seq_file`).
#[inline(always)]
pub fn visit_file(seq: Typed<AnyStruct>, task: Typed<Task>, fd: u32, file: Typed<File>) {
    let sk = TypedSock::from_file(file);
    if sk.is_null() {
        return;
    }
    let listener = sk.probed();
    if !listener.is_listening() || !is_recorded_family(listener.family()) {
        return;
    }
    let is_inet = matches!(listener.family(), AF_INET | AF_INET6);
    if is_inet {
        // Accept can then read the cookie.
        sk.make_cookie();
    }
    let Some(row) = SURVEY_ROW.get_ptr_mut(0) else { return };
    // SAFETY: a non-null map value, of which all-zero bytes are a valid one. One survey runs at a time.
    let out = unsafe {
        zero(row);
        &mut *row
    };
    task::describe_other(task, &mut out.owner);
    listener.describe_listener(file.probed().inode(), &mut out.listener);
    out.fd = fd as i32;
    if listener.family() == AF_UNIX {
        listener.unix_name(&mut out.name);
        describe_oldest_unix(listener, out);
    } else if is_inet {
        describe_oldest_inet(sk, out);
    }
    // If the buffer is full, the kernel enlarges it and visits this file again.
    // SAFETY: `seq` is typed, and the row has this size.
    unsafe { bpf_seq_write(seq.as_ptr(), row.cast(), size_of::<ListenerState>() as u32) };
}

/// The connection that the next accept takes, and since when it waits (`reqsk_queue_remove`,
/// include/net/request_sock.h).
#[inline(always)]
fn describe_oldest_inet(listener: TypedSock, out: &mut ListenerState) {
    let request: Probed<AnyStruct> = listener.probed().identity().follow(&ACCEPT_QUEUE_HEAD);
    if request.is_null() {
        return;
    }
    let connection: ProbedSock = request.follow(&REQUEST_SK);
    out.oldest = connection.as_ptr() as u64;
    out.oldest_since_ns = pending::oldest_established_ns(listener, connection).unwrap_or_default();
}

/// A UNIX connection waits as a packet in the listener's receive queue, whose end is the queue itself
/// (`unix_accept`, net/unix/af_unix.c). The kernel does not keep since when it waits.
#[inline(always)]
fn describe_oldest_unix(listener: ProbedSock, out: &mut ListenerState) {
    let queue = listener.member(&SK_RECEIVE_NEXT);
    let first: Probed<AnyStruct> = listener.follow(&SK_RECEIVE_NEXT);
    if first.as_ptr() != queue {
        out.oldest = first.as_ptr() as u64;
    }
}

/// Visits one socket of the TCP hash tables. A connection without a file is queued: it gets a cookie, and is
/// remembered as waiting since an unknown time.
#[inline(always)]
pub fn visit_tcp_socket(skc: TypedSock) {
    // Null for requests and sockets in TIME_WAIT.
    let sk = skc.tcp();
    if sk.is_null() {
        return;
    }
    if !is_queued(sk.probed()) {
        return traced::mark_alive(sk.probed().identity_cookie());
    }
    let cookie = sk.make_cookie();
    pending::store_preexisting(sk, cookie);
    if !is_queued(sk.probed()) {
        // It was accepted meanwhile, perhaps before it was remembered.
        let _ = pending::take(sk);
    }
}

#[inline(always)]
fn is_queued(sk: ProbedSock) -> bool {
    let state: u8 = sk.load(&SK_STATE);
    matches!(state, TCP_ESTABLISHED | TCP_CLOSE_WAIT) && !sk.is_accepted()
}
