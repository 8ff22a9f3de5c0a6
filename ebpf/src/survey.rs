//! Surveys what exists already: every open listener with its owner, and the connections that were queued
//! before the programs were attached.

use core::mem::size_of;

use acceptd_common::{ListenerState, SurveyRow, UnixName};
use aya_ebpf::{
    helpers::generated::{bpf_d_path, bpf_seq_write},
    macros::map,
    maps::Array,
};

use crate::{
    offsets::*,
    overflow, pending,
    read::{AnyStruct, File, Probed, Task, Typed},
    send::zero,
    sock::{ProbedSock, TypedSock, is_recorded_family},
    task, traced,
    uapi::{AF_INET, AF_INET6, AF_UNIX, AF_VSOCK, IPPROTO_SCTP, TCP_CLOSE_WAIT, TCP_ESTABLISHED},
};

/// The row that the survey fills, which is too large for the stack: the last one that was written. The agent
/// runs one survey at a time, and clears the row before.
#[map]
static SURVEY_ROW: Array<SurveyRow> = Array::with_max_entries(1, 0);

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
    let inode = file.probed().inode();
    // SAFETY: a non-null map value. One survey runs at a time.
    let last = unsafe { &(*row).state };
    if last.listener.inode == inode && last.owner.tgid == task.load::<u32>(&TASK_TGID) {
        // Another descriptor of the same process. The agent leaves out those that are not in a run.
        return;
    }
    // SAFETY: a non-null map value, of which all-zero bytes are a valid one. One survey runs at a time.
    let (out, path) = unsafe {
        zero(row);
        (&mut (*row).state, &mut (*row).path)
    };
    task::describe_other(task, &mut out.owner);
    listener.describe_listener(inode, &mut out.listener);
    overflow::describe(listener, &mut out.refused);
    out.fd = fd as i32;
    if listener.family() == AF_UNIX {
        listener.unix_name(&mut out.name);
        describe_path(sk, path);
        describe_oldest_unix(listener, out);
    } else if listener.family() == AF_VSOCK {
        describe_oldest_vsock(listener, out);
    } else if listener.protocol() != IPPROTO_SCTP {
        describe_oldest_inet(sk, out);
    }
    // SAFETY: `seq` is typed, and the row has this size.
    let written = unsafe { bpf_seq_write(seq.as_ptr(), row.cast(), size_of::<SurveyRow>() as u32) };
    if written != 0 {
        // The buffer is full: the kernel empties or enlarges it, and visits this file again.
        forget_last_row();
    }
}

/// The last row was not written: the next one is no repetition.
#[inline(always)]
fn forget_last_row() {
    if let Some(row) = SURVEY_ROW.get_ptr_mut(0) {
        // SAFETY: a non-null map value. One survey runs at a time.
        unsafe { (*row).state.listener.inode = 0 };
    }
}

/// The path that the file of a UNIX socket has now; `out` is zero and stays so if the socket has no file.
/// Only iterators may call this helper, so the other programs know the bound name alone.
#[inline(always)]
fn describe_path(sk: TypedSock, out: &mut UnixName) {
    if UNIX_PATH.load() == ABSENT {
        return;
    }
    let sk = sk.unix();
    // Its first member is the mount, which is null for an abstract name.
    if sk.is_null() || sk.probed().load::<u64>(&UNIX_PATH) == 0 {
        return;
    }
    let path = sk.probed().member(&UNIX_PATH).cast_mut();
    // SAFETY: the verifier checks that `path` is a `struct path` within the typed `sk`, and the buffer has
    // this size.
    let length = unsafe { bpf_d_path(path.cast(), out.bytes.as_mut_ptr().cast(), out.bytes.len() as u32) };
    if length > 0 {
        out.length = length as u32;
    }
}

/// The connection that the next accept takes, and since when it waits (`reqsk_queue_remove`,
/// include/net/request_sock.h). Not for SCTP, whose socket has no such queue.
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

/// VSOCK connections wait in a list, whose end is the listener itself (`vsock_dequeue_accept`,
/// net/vmw_vsock/af_vsock.c). The kernel does not keep since when they wait.
#[inline(always)]
fn describe_oldest_vsock(listener: ProbedSock, out: &mut ListenerState) {
    if VSOCK_ACCEPT_QUEUE.load() == ABSENT {
        return;
    }
    let queue = listener.member(&VSOCK_ACCEPT_QUEUE);
    let first: Probed<AnyStruct> = listener.follow(&VSOCK_ACCEPT_QUEUE);
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
