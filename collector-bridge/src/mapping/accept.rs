//! Makes the accept record from a sample of an accept.

use acceptd_common::{
    AcceptCall, Handshake, Header, InetAccept, Listener, PeerProcess, Task, TraceDecision, UnixAccept,
};
use acceptd_otlp::{Accept, SocketEndpoint, Syscall, TcpHandshake, Transport, network_type};

use super::{
    RecordContext,
    endpoint::{endpoint, is_mptcp, listener_endpoint, non_zero, transport, unix_endpoint, visible_peer},
    ids::SpanRole,
};
use crate::identity::{Identity, until_nul};

/// The record of an accept on an internet or VSOCK socket.
#[must_use]
pub(crate) fn inet_accept<'a>(
    sample: &'a InetAccept,
    identity: &'a Identity,
    context: RecordContext<'_>,
) -> Accept<'a> {
    let InetAccept { header, task, call, socket, listener, handshake, trace, peer: process } = sample;
    let mut record = base_record(header, task, call, socket.cookie, trace, identity, context);
    (record.peer_pid, record.peer_executable) = peer_identity(process);
    let has_listener = add_listener(&mut record, call, listener);
    let has_socket = has(call, AcceptCall::HAS_SOCKET);
    let (family, protocol) =
        if has_socket { (socket.family, socket.protocol) } else { (listener.family, listener.protocol) };
    record.transport = transport(family, protocol);
    record.mptcp = is_mptcp(family, protocol);
    record.netns_inode = listener.netns;
    if has_listener {
        record.listener = endpoint(listener.family, listener.addr, listener.port).0;
        record.network_type = record.listener.as_ref().and_then(network_type);
    }
    if has_socket {
        let (local, mapped) = endpoint(socket.family, socket.local_addr, socket.local_port);
        let (known, _) = endpoint(socket.family, socket.peer_addr, socket.peer_port);
        record.network_type = local.as_ref().and_then(network_type);
        record.v4_mapped = mapped;
        (record.local, record.peer) = (local, visible_peer(known, context.peers));
        record.socket_inode = non_zero(socket.inode);
        record.netns_inode = socket.netns;
    }
    record.handshake = tcp_handshake(handshake);
    record
}

/// The measurements of the handshake; `None` if they are not known.
fn tcp_handshake(handshake: &Handshake) -> Option<TcpHandshake> {
    let time = non_zero(handshake.time_ns);
    let (time_ns, deferred_time_ns) = match handshake.known {
        0 => return None,
        Handshake::DEFERRED => (None, time),
        _ => (time, None),
    };
    Some(TcpHandshake {
        time_ns,
        deferred_time_ns,
        rtt_ns: non_zero(handshake.rtt_ns),
        synack_retransmits: handshake.synack_retransmits,
    })
}

/// The record of an accept on a UNIX socket.
#[must_use]
pub(crate) fn unix_accept<'a>(
    sample: &'a UnixAccept,
    identity: &'a Identity,
    context: RecordContext<'_>,
) -> Accept<'a> {
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
    let mut record = base_record(header, task, call, *cookie, trace, identity, context);
    (record.peer_pid, record.peer_executable) = peer_identity(peer_process);
    record.transport = Transport::Unix;
    record.netns_inode = listener.netns;
    if add_listener(&mut record, call, listener) {
        record.listener = listener_endpoint(listener, local);
    }
    if has(call, AcceptCall::HAS_SOCKET) {
        record.local = unix_endpoint(local);
        record.peer = visible_peer(unix_endpoint(peer), context.peers);
        record.socket_inode = non_zero(*inode);
        record.netns_inode = *netns;
    }
    record
}

/// The part of the record that does not depend on the address family: call, thread, ids and times. The record
/// has trace and span ids only if a span follows. `cookie` is 0 if it is not known.
fn base_record<'a>(
    header: &Header,
    task: &'a Task,
    call: &AcceptCall,
    cookie: u64,
    trace: &TraceDecision,
    identity: &'a Identity,
    context: RecordContext<'_>,
) -> Accept<'a> {
    let uid = context.ids.record_uid(header.cpu, header.sequence);
    let failed = call.result < 0;
    let trace = is_traced(trace).then(|| context.ids.trace_and_span_id(cookie, SpanRole::Connection));
    let none: Option<SocketEndpoint<'_>> = None;
    Accept {
        time_unix_nano: context.clock.unix_nanos(header.boot_ns),
        observed_time_unix_nano: context.observed_unix_ns,
        uid,
        trace_id: trace.map(|(trace, _)| trace),
        span_id: trace.map(|(_, span)| span),
        sampled: trace.is_some(),
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
        socket_cookie: non_zero(cookie),
        listener_cookie: None,
        socket_inode: None,
        listener_inode: None,
        socket_fd: (!failed && has(call, AcceptCall::HAS_FD)).then_some(call.result),
        listener_fd: has(call, AcceptCall::HAS_LISTENER_FD).then_some(call.listener_fd),
        backlog_length: None,
        backlog_limit: None,
        queue_time_ns: has(call, AcceptCall::HAS_QUEUE_TIME).then_some(call.queue_ns),
        blocked_time_ns: has(call, AcceptCall::HAS_BLOCKED_TIME).then_some(call.blocked_ns),
        handshake: None,
        syscall: syscall(call.syscall),
        verified: failed || has(call, AcceptCall::VERIFIED),
        self_accept: has(call, AcceptCall::SELF_ACCEPT),
        adjusted_count: None,
        thread_id: task.tid,
        thread_name: until_nul(&task.comm),
        netns_inode: 0,
        capture_tier: call.tier,
        process_name: &identity.name,
        pid: task.tgid,
    }
}

/// Adds the listener's facts except its address, if the sample has a listener. Returns whether it has one.
fn add_listener(record: &mut Accept<'_>, call: &AcceptCall, listener: &Listener) -> bool {
    let known = has(call, AcceptCall::HAS_LISTENER);
    if known {
        record.listener_cookie = non_zero(listener.cookie);
        record.listener_inode = non_zero(listener.inode);
        record.backlog_length = Some(listener.backlog_length);
        record.backlog_limit = Some(listener.backlog_limit);
    }
    known
}

/// `acceptd.accept.syscall` of a call's number in the sample.
pub(super) fn syscall(number: u8) -> Syscall {
    match number {
        AcceptCall::SYSCALL_ACCEPT => Syscall::Accept,
        AcceptCall::SYSCALL_IO_URING => Syscall::IoUring,
        AcceptCall::SYSCALL_KERNEL => Syscall::Kernel,
        _ => Syscall::Accept4,
    }
}

/// The pid and the executable's name of the peer process; `None` and empty if they are unknown.
fn peer_identity(peer: &PeerProcess) -> (Option<u32>, &[u8]) {
    let length = usize::try_from(peer.exe_len).unwrap_or(0).min(peer.exe.len());
    (Some(peer.tgid).filter(|tgid| *tgid != 0), until_nul(&peer.exe[..length]))
}

fn is_traced(trace: &TraceDecision) -> bool {
    trace.flags & TraceDecision::TRACED != 0
}

fn has(call: &AcceptCall, flag: u16) -> bool {
    call.flags & flag != 0
}
