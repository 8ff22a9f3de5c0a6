//! The log record of an accept.

use super::{
    address::{FormattedEndpoint, SocketEndpoint, milliseconds, number},
    attributes::AttributeWriter,
    network::{NetworkType, Syscall, Transport},
    uid::{RecordUid, uid_text},
};
use crate::{
    attribute_filter::{Attribute, AttributeFilter},
    errno, names,
    text::escape_into,
    wire::{bytes, fixed32, fixed64, nested, uint},
};

/// W3C trace flags of a log record whose trace is sampled.
const SAMPLED: u32 = 1;

/// An accept, with every value that its record may carry. A value that is not known is `None`, never a
/// placeholder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept<'a> {
    /// When accept returned, in nanoseconds since the Unix epoch.
    pub time_unix_nano: u64,
    /// When user space read the sample, in nanoseconds since the Unix epoch.
    pub observed_time_unix_nano: u64,
    /// `log.record.uid`
    pub uid: RecordUid,
    /// The id of the connection's trace.
    pub trace_id: Option<[u8; 16]>,
    /// The id of the root span of that trace.
    pub span_id: Option<[u8; 8]>,
    /// Whether the trace is sampled: only then are its spans sent.
    pub sampled: bool,
    /// The error of a failed accept; `None` for a successful one.
    pub errno: Option<i32>,
    /// `network.transport`
    pub transport: Transport,
    /// `network.type`
    pub network_type: Option<NetworkType>,
    /// Whether this is an IPv4 connection on an IPv6 socket.
    pub v4_mapped: bool,
    /// Whether this is a Multipath TCP connection.
    pub mptcp: bool,
    /// The local address of the accepted socket.
    pub local: Option<SocketEndpoint<'a>>,
    /// The address of the peer.
    pub peer: Option<SocketEndpoint<'a>>,
    /// The process id of the peer, if it is on this host.
    pub peer_pid: Option<u32>,
    /// The basename of the peer's executable, in any bytes; empty if it is not known.
    pub peer_executable: &'a [u8],
    /// The address to which the listener is bound.
    pub listener: Option<SocketEndpoint<'a>>,
    /// The cookie of the accepted socket.
    pub socket_cookie: Option<u64>,
    /// The cookie of the listener.
    pub listener_cookie: Option<u64>,
    /// The inode of the accepted socket.
    pub socket_inode: Option<u64>,
    /// The inode of the listener.
    pub listener_inode: Option<u64>,
    /// The file descriptor of the accepted socket.
    pub socket_fd: Option<i32>,
    /// The file descriptor of the listener.
    pub listener_fd: Option<i32>,
    /// The number of connections in the accept queue after this accept.
    pub backlog_length: Option<u32>,
    /// The limit of the accept queue.
    pub backlog_limit: Option<u32>,
    /// How long the connection was in the accept queue, in nanoseconds.
    pub queue_time_ns: Option<u64>,
    /// How long the thread was blocked in the call, in nanoseconds.
    pub blocked_time_ns: Option<u64>,
    /// Measurements of the TCP handshake.
    pub handshake: Option<TcpHandshake>,
    /// The system call.
    pub syscall: Syscall,
    /// False if it is not certain that the call returned this socket.
    pub verified: bool,
    /// Whether the agent accepted or opened the connection.
    pub self_accept: bool,
    /// The number of accepts that a sampled record represents, itself included.
    pub adjusted_count: Option<u64>,
    /// The OS thread id.
    pub thread_id: u32,
    /// The name of the OS thread, in any bytes.
    pub thread_name: &'a [u8],
    /// The inode of the network namespace; 0 if it is not known.
    pub netns_inode: u32,
    /// The capture tier, 1 or 2.
    pub capture_tier: u8,
    /// The name of the executable for the body, in any bytes.
    pub process_name: &'a [u8],
    /// The process id for the body.
    pub pid: u32,
}

/// Measurements of the server's side of a TCP handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpHandshake {
    /// The time from the first SYN-ACK to the final ACK, in nanoseconds.
    pub time_ns: Option<u64>,
    /// The time from the first SYN-ACK to the client's first data, in nanoseconds, if the listener defers
    /// accepts.
    pub deferred_time_ns: Option<u64>,
    /// The smoothed round-trip time when the connection became ESTABLISHED, in nanoseconds.
    pub rtt_ns: Option<u64>,
    /// The number of retransmitted SYN-ACKs.
    pub synack_retransmits: u32,
}

/// Appends the fields of one `LogRecord` message, without the tag and length of the message itself.
pub fn encode_accept(out: &mut Vec<u8>, accept: &Accept<'_>, filter: &AttributeFilter) {
    let endpoints = FormattedEndpoints::new(accept);
    fixed64::<1>(out, accept.time_unix_nano);
    uint::<2>(out, u64::from(errno::severity(accept.errno)));
    nested::<5>(out, |out| nested::<1>(out, |out| body(out, accept, &endpoints, filter.value_length)));
    attributes(&mut AttributeWriter { out, filter }, accept, &endpoints);
    if accept.sampled {
        fixed32::<8>(out, SAMPLED);
    }
    if let Some(trace_id) = &accept.trace_id {
        bytes::<9>(out, trace_id);
    }
    if let Some(span_id) = &accept.span_id {
        bytes::<10>(out, span_id);
    }
    fixed64::<11>(out, accept.observed_time_unix_nano);
    bytes::<12>(out, names::EVENT_ACCEPTD_SOCKET_ACCEPT.as_bytes());
}

/// The formatted endpoints of an accept, which its body and its attributes share.
struct FormattedEndpoints<'a> {
    local: Option<FormattedEndpoint<'a>>,
    peer: Option<FormattedEndpoint<'a>>,
    listener: Option<FormattedEndpoint<'a>>,
}

impl<'a> FormattedEndpoints<'a> {
    fn new(accept: &Accept<'a>) -> Self {
        Self {
            local: accept.local.map(FormattedEndpoint::new),
            peer: accept.peer.map(FormattedEndpoint::new),
            listener: accept.listener.map(FormattedEndpoint::new),
        }
    }
}

/// `nginx[812] accepted tcp 10.0.0.7:51514 -> 10.1.2.80:443 after 1.2 ms in queue`
fn body(out: &mut Vec<u8>, accept: &Accept<'_>, endpoints: &FormattedEndpoints<'_>, limit: usize) {
    // At most half of the length for the name, so that the rest of the line is not cut.
    escape_into(out, accept.process_name, limit / 2);
    out.push(b'[');
    number(out, accept.pid);
    out.extend_from_slice(b"] ");
    let transport = accept.transport.as_str().as_bytes();
    if let Some(errno) = accept.errno {
        out.extend_from_slice(b"failed to accept ");
        out.extend_from_slice(transport);
        on(out, endpoints.listener.as_ref(), limit);
        out.extend_from_slice(b": ");
        out.extend_from_slice(errno::symbol(errno).as_bytes());
        return;
    }
    out.extend_from_slice(b"accepted ");
    out.extend_from_slice(transport);
    match (&endpoints.peer, &endpoints.local) {
        (Some(peer), Some(local)) => {
            out.push(b' ');
            peer.write(out, limit);
            out.extend_from_slice(b" -> ");
            local.write(out, limit);
        }
        // The peer is an unnamed UNIX socket, or the addresses are not known.
        (_, local) => on(out, local.as_ref().or(endpoints.listener.as_ref()), limit),
    }
    if let Some(nanos) = accept.queue_time_ns {
        out.extend_from_slice(b" after ");
        milliseconds(out, nanos);
        out.extend_from_slice(b" ms in queue");
    }
}

fn on(out: &mut Vec<u8>, address: Option<&FormattedEndpoint<'_>>, limit: usize) {
    if let Some(address) = address {
        out.extend_from_slice(b" on ");
        address.write(out, limit);
    }
}

fn attributes(to: &mut AttributeWriter<'_>, accept: &Accept<'_>, endpoints: &FormattedEndpoints<'_>) {
    to.text(Attribute::Transport, accept.transport.as_str());
    if let Some(network_type) = accept.network_type {
        to.text(Attribute::NetworkType, network_type.as_str());
    }
    to.endpoint(Attribute::LocalAddress, Attribute::LocalPort, endpoints.local.as_ref());
    to.endpoint(Attribute::PeerAddress, Attribute::PeerPort, endpoints.peer.as_ref());
    to.int(Attribute::PeerPid, accept.peer_pid.map(u64::from));
    if !accept.peer_executable.is_empty() {
        to.raw(Attribute::PeerExecutable, accept.peer_executable);
    }
    if let Some(errno) = accept.errno {
        to.text(Attribute::ErrorType, errno::symbol(errno));
        // A failed accept has no addresses of its own: its record always has those of the listener.
        to.endpoint_always(Attribute::ListenerAddress, Attribute::ListenerPort, endpoints.listener.as_ref());
    } else {
        to.endpoint(Attribute::ListenerAddress, Attribute::ListenerPort, endpoints.listener.as_ref());
        // With a transparent proxy the listener's port says who accepts, and the local one what was asked
        // for.
        let port = |endpoint: &Option<FormattedEndpoint<'_>>| endpoint.as_ref()?.endpoint.port();
        let other = port(&endpoints.listener)
            .filter(|listener| port(&endpoints.local).is_some_and(|local| local != *listener));
        to.int_beyond_profile(Attribute::ListenerPort, other);
    }
    to.bytes(Attribute::Uid, &uid_text(accept.uid));
    to.id(Attribute::SocketCookie, accept.socket_cookie);
    to.id(Attribute::ListenerCookie, accept.listener_cookie);
    to.int(Attribute::SocketInode, accept.socket_inode);
    to.int(Attribute::ListenerInode, accept.listener_inode);
    to.int(Attribute::SocketFd, accept.socket_fd.and_then(|fd| u64::try_from(fd).ok()));
    to.int(Attribute::ListenerFd, accept.listener_fd.and_then(|fd| u64::try_from(fd).ok()));
    to.int(Attribute::BacklogLength, accept.backlog_length.map(u64::from));
    to.int(Attribute::BacklogLimit, accept.backlog_limit.map(u64::from));
    to.int(Attribute::QueueTime, accept.queue_time_ns);
    to.int(Attribute::BlockedTime, accept.blocked_time_ns);
    if let Some(handshake) = accept.handshake {
        let TcpHandshake { time_ns, deferred_time_ns, rtt_ns, synack_retransmits } = handshake;
        to.int(Attribute::HandshakeTime, time_ns);
        to.int(Attribute::DeferredTime, deferred_time_ns);
        to.int(Attribute::RoundTripTime, rtt_ns);
        to.int(Attribute::SynackRetransmits, Some(u64::from(synack_retransmits)));
    }
    to.text(Attribute::Syscall, accept.syscall.as_str());
    to.flag(Attribute::Verified, !accept.verified, false);
    to.flag(Attribute::Mptcp, accept.mptcp, true);
    to.flag(Attribute::V4Mapped, accept.v4_mapped, true);
    to.flag(Attribute::SelfAccept, accept.self_accept, true);
    to.int(Attribute::AdjustedCount, accept.adjusted_count);
    to.int(Attribute::NetnsInode, (accept.netns_inode != 0).then_some(u64::from(accept.netns_inode)));
    to.int(Attribute::ThreadId, Some(u64::from(accept.thread_id)));
    to.raw(Attribute::ThreadName, accept.thread_name);
    to.int(Attribute::CaptureTier, Some(u64::from(accept.capture_tier)));
    to.event_name(names::EVENT_ACCEPTD_SOCKET_ACCEPT);
}
