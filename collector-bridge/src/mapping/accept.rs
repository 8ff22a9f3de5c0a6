//! The accept record, of each kind of sample.

use acceptd_common::{Call, Header, InetAccept, Listener, Peer, Task, Trace, UnixAccept};
use acceptd_otlp::{Accept, Endpoint, Handshake, Syscall, Transport, network_type};

use super::{Context, endpoint, is_mptcp, listener_endpoint, non_zero, peer, transport, unix_endpoint};
use crate::{
    identity::{Identity, until_nul},
    mapping::ids::{Connection, Role},
};

/// The record of an accept on an internet or VSOCK socket.
#[must_use]
pub fn inet<'a>(sample: &'a InetAccept, identity: &'a Identity, context: Context<'_>) -> Accept<'a> {
    let InetAccept { header, task, call, socket, listener, handshake, trace, peer: process } = sample;
    let mut record = call_of(header, task, call, non_zero(socket.cookie), identity, context);
    record.sampled = is_sampled(trace);
    (record.peer_pid, record.peer_executable) = process_of(process);
    let listens = with_listener(&mut record, call, listener);
    let has_socket = has(call, Call::HAS_SOCKET);
    let (family, protocol) =
        if has_socket { (socket.family, socket.protocol) } else { (listener.family, listener.protocol) };
    record.transport = transport(family, protocol);
    record.mptcp = is_mptcp(family, protocol);
    record.netns_inode = listener.netns;
    if listens {
        record.listener = endpoint(listener.family, listener.addr, listener.port).0;
        record.network_type = record.listener.as_ref().and_then(network_type);
    }
    if has_socket {
        let (local, mapped) = endpoint(socket.family, socket.local_addr, socket.local_port);
        let (known, _) = endpoint(socket.family, socket.peer_addr, socket.peer_port);
        record.network_type = local.as_ref().and_then(network_type);
        record.v4_mapped = mapped;
        (record.local, record.peer) = (local, peer(known, context.peers));
        record.socket_inode = non_zero(socket.inode);
        record.netns_inode = socket.netns;
    }
    record.handshake = (handshake.is_known != 0).then(|| Handshake {
        time_ns: non_zero(handshake.time_ns),
        rtt_ns: non_zero(handshake.rtt_ns),
        synack_retransmits: handshake.synack_retransmits,
    });
    record
}

/// The record of an accept on a UNIX socket.
#[must_use]
pub fn unix<'a>(sample: &'a UnixAccept, identity: &'a Identity, context: Context<'_>) -> Accept<'a> {
    let UnixAccept {
        header,
        task,
        call,
        listener,
        inode,
        cookie,
        netns,
        local,
        peer,
        trace,
        peer_process,
        ..
    } = sample;
    let mut record = call_of(header, task, call, non_zero(*cookie), identity, context);
    record.sampled = is_sampled(trace);
    (record.peer_pid, record.peer_executable) = process_of(peer_process);
    record.transport = Transport::Unix;
    record.netns_inode = listener.netns;
    if with_listener(&mut record, call, listener) {
        record.listener = listener_endpoint(listener, local);
    }
    if has(call, Call::HAS_SOCKET) {
        record.local = unix_endpoint(local);
        record.peer = super::peer(unix_endpoint(peer), context.peers);
        record.socket_inode = non_zero(*inode);
        record.netns_inode = *netns;
    }
    record
}

/// The part that is the same for all: call, thread, ids and times.
fn call_of<'a>(
    header: &Header,
    task: &'a Task,
    call: &Call,
    cookie: Option<u64>,
    identity: &'a Identity,
    context: Context<'_>,
) -> Accept<'a> {
    let uid = context.ids.record(header.cpu, header.sequence);
    let failed = call.result < 0;
    let trace = (!failed).then(|| {
        let name = cookie.map_or(Connection::Record(uid), Connection::Cookie);
        context.ids.trace(name, Role::Connection)
    });
    let none: Option<Endpoint<'_>> = None;
    Accept {
        time_unix_nano: context.clock.unix_nanos(header.boot_ns),
        observed_time_unix_nano: context.observed,
        uid,
        trace_id: trace.map(|(trace, _)| trace),
        span_id: trace.map(|(_, span)| span),
        sampled: false,
        errno: failed.then(|| call.result.saturating_neg()),
        transport: Transport::Tcp,
        network_type: None,
        v4_mapped: false,
        mptcp: false,
        local: none,
        peer: none,
        peer_pid: None,
        peer_executable: &[],
        listener: none,
        socket_cookie: cookie,
        listener_cookie: None,
        socket_inode: None,
        listener_inode: None,
        socket_fd: (!failed && has(call, Call::HAS_FD)).then_some(call.result),
        listener_fd: has(call, Call::HAS_LISTENER_FD).then_some(call.listener_fd),
        backlog_length: None,
        backlog_limit: None,
        queue_time_ns: has(call, Call::HAS_QUEUE_TIME).then_some(call.queue_ns),
        blocked_time_ns: has(call, Call::HAS_BLOCKED_TIME).then_some(call.blocked_ns),
        handshake: None,
        syscall: syscall(call.syscall),
        verified: failed || has(call, Call::VERIFIED),
        self_accept: has(call, Call::SELF_ACCEPT),
        adjusted_count: None,
        thread_id: task.tid,
        thread_name: until_nul(&task.comm),
        netns_inode: 0,
        capture_tier: call.tier,
        process_name: &identity.name,
        pid: task.tgid,
    }
}

/// Adds what is known of the listener, if it is; all but its address.
fn with_listener(record: &mut Accept<'_>, call: &Call, listener: &Listener) -> bool {
    let known = has(call, Call::HAS_LISTENER);
    if known {
        record.listener_cookie = non_zero(listener.cookie);
        record.listener_inode = non_zero(listener.inode);
        record.backlog_length = Some(listener.backlog_length);
        record.backlog_limit = Some(listener.backlog_limit);
    }
    known
}

pub(super) fn syscall(number: u8) -> Syscall {
    match number {
        Call::SYSCALL_ACCEPT => Syscall::Accept,
        Call::SYSCALL_IO_URING => Syscall::IoUring,
        Call::SYSCALL_KERNEL => Syscall::Kernel,
        _ => Syscall::Accept4,
    }
}

fn process_of(peer: &Peer) -> (Option<u32>, &[u8]) {
    let length = usize::try_from(peer.exe_len).unwrap_or(0).min(peer.exe.len());
    (Some(peer.tgid).filter(|tgid| *tgid != 0), until_nul(&peer.exe[..length]))
}

fn is_sampled(trace: &Trace) -> bool {
    trace.flags & Trace::SAMPLED != 0
}

fn has(call: &Call, flag: u16) -> bool {
    call.flags & flag != 0
}
