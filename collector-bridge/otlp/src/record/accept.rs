//! One accept, and its log record.

use crate::{
    errno, names,
    profile::{Attribute, Profile},
    record::{
        NetworkType, RecordUid, Syscall, Transport,
        address::{Endpoint, Shown, milliseconds, number},
        attributes::{Attributes, uid_text},
    },
    text::escape_into,
    wire::{bytes, fixed32, fixed64, nested, uint},
};

/// `W3C` trace flags of a log record.
const SAMPLED: u32 = 1;

/// An accept with everything that a record may carry. Absent is `None`, never a stand-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept<'a> {
    /// When accept returned, nanoseconds since the Unix epoch.
    pub time_unix_nano: u64,
    /// When user space read the event, likewise.
    pub observed_time_unix_nano: u64,
    /// The record's id.
    pub uid: RecordUid,
    /// Id of the connection's trace.
    pub trace_id: Option<[u8; 16]>,
    /// Id of the connection's root span.
    pub span_id: Option<[u8; 8]>,
    /// Whether that span will be sent.
    pub sampled: bool,
    /// Why it failed, if it did.
    pub errno: Option<i32>,
    /// `network.transport`
    pub transport: Transport,
    /// `network.type`
    pub network_type: Option<NetworkType>,
    /// An IPv4 connection on an IPv6 socket.
    pub v4_mapped: bool,
    /// Multipath TCP.
    pub mptcp: bool,
    /// Local end of the accepted socket.
    pub local: Option<Endpoint<'a>>,
    /// The peer's end.
    pub peer: Option<Endpoint<'a>>,
    /// The process that connected.
    pub peer_pid: Option<u32>,
    /// Its executable's basename, any bytes; empty when it is not known.
    pub peer_executable: &'a [u8],
    /// What the listener is bound to.
    pub listener: Option<Endpoint<'a>>,
    /// Cookie of the accepted socket.
    pub socket_cookie: Option<u64>,
    /// Cookie of the listener.
    pub listener_cookie: Option<u64>,
    /// Inode of the accepted socket.
    pub socket_inode: Option<u64>,
    /// Inode of the listener.
    pub listener_inode: Option<u64>,
    /// The new descriptor.
    pub socket_fd: Option<i32>,
    /// The listening descriptor.
    pub listener_fd: Option<i32>,
    /// Connections left in the accept queue.
    pub backlog_length: Option<u32>,
    /// Limit of the accept queue.
    pub backlog_limit: Option<u32>,
    /// Nanoseconds in the accept queue.
    pub queue_time_ns: Option<u64>,
    /// Nanoseconds that the thread sat in the call.
    pub blocked_time_ns: Option<u64>,
    /// How the connection was established.
    pub handshake: Option<Handshake>,
    /// Which call.
    pub syscall: Syscall,
    /// False when nothing proves that the socket is the one that the call returned.
    pub verified: bool,
    /// The agent's own.
    pub self_accept: bool,
    /// Accepts that it stands for, itself among them.
    pub adjusted_count: Option<u64>,
    /// OS thread id.
    pub thread_id: u32,
    /// OS thread name, any bytes.
    pub thread_name: &'a [u8],
    /// Inode of the network namespace; 0 is unknown.
    pub netns_inode: u32,
    /// 1 or 2.
    pub capture_tier: u8,
    /// `process.executable.name` for the body, any bytes.
    pub process_name: &'a [u8],
    /// Process id for the body.
    pub pid: u32,
}

/// What the server's side of a TCP connection measured until it was established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Nanoseconds from the first SYN-ACK to the final ACK.
    pub time_ns: Option<u64>,
    /// Nanoseconds of round-trip time at ESTABLISHED.
    pub rtt_ns: Option<u64>,
    /// SYN-ACKs that were sent again.
    pub synack_retransmits: u32,
}

/// Appends one `LogRecord` message: its fields, without tag and length of its own.
pub fn encode_accept(out: &mut Vec<u8>, accept: &Accept<'_>, profile: &Profile) {
    let texts = Texts::of(accept);
    fixed64::<1>(out, accept.time_unix_nano);
    uint::<2>(out, u64::from(errno::severity(accept.errno)));
    nested::<5>(out, |out| nested::<1>(out, |out| body(out, accept, &texts, profile.value_length)));
    attributes(&mut Attributes { out, profile }, accept, &texts);
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

/// The texts that the body and the attributes share, formatted once.
struct Texts<'a> {
    local: Option<Shown<'a>>,
    peer: Option<Shown<'a>>,
    listener: Option<Shown<'a>>,
}

impl<'a> Texts<'a> {
    fn of(accept: &Accept<'a>) -> Self {
        Self {
            local: accept.local.map(Shown::of),
            peer: accept.peer.map(Shown::of),
            listener: accept.listener.map(Shown::of),
        }
    }
}

/// `nginx[812] accepted tcp 10.0.0.7:51514 -> 10.1.2.80:443 after 1.2 ms in queue`
fn body(out: &mut Vec<u8>, accept: &Accept<'_>, texts: &Texts<'_>, limit: usize) {
    // Half for the name at most: the rest has to follow.
    escape_into(out, accept.process_name, limit / 2);
    out.push(b'[');
    number(out, accept.pid);
    out.extend_from_slice(b"] ");
    let transport = accept.transport.as_str().as_bytes();
    if let Some(errno) = accept.errno {
        out.extend_from_slice(b"failed to accept ");
        out.extend_from_slice(transport);
        on(out, texts.listener.as_ref(), limit);
        out.extend_from_slice(b": ");
        out.extend_from_slice(errno::symbol(errno).as_bytes());
        return;
    }
    out.extend_from_slice(b"accepted ");
    out.extend_from_slice(transport);
    match (&texts.peer, &texts.local) {
        (Some(peer), Some(local)) => {
            out.push(b' ');
            peer.write(out, limit);
            out.extend_from_slice(b" -> ");
            local.write(out, limit);
        }
        // An unnamed UNIX peer, or no socket at all.
        (_, local) => on(out, local.as_ref().or(texts.listener.as_ref()), limit),
    }
    if let Some(nanos) = accept.queue_time_ns {
        out.extend_from_slice(b" after ");
        milliseconds(out, nanos);
        out.extend_from_slice(b" ms in queue");
    }
}

fn on(out: &mut Vec<u8>, address: Option<&Shown<'_>>, limit: usize) {
    if let Some(address) = address {
        out.extend_from_slice(b" on ");
        address.write(out, limit);
    }
}

fn attributes(to: &mut Attributes<'_>, accept: &Accept<'_>, texts: &Texts<'_>) {
    to.text(Attribute::Transport, accept.transport.as_str());
    if let Some(network_type) = accept.network_type {
        to.text(Attribute::NetworkType, network_type.as_str());
    }
    to.endpoint(Attribute::LocalAddress, Attribute::LocalPort, texts.local.as_ref());
    to.endpoint(Attribute::PeerAddress, Attribute::PeerPort, texts.peer.as_ref());
    to.int(Attribute::PeerPid, accept.peer_pid.map(u64::from));
    if !accept.peer_executable.is_empty() {
        to.raw(Attribute::PeerExecutable, accept.peer_executable);
    }
    if let Some(errno) = accept.errno {
        to.text(Attribute::ErrorType, errno::symbol(errno));
        // A failed accept has no addresses of its own: it always says which listener it was.
        to.endpoint_always(Attribute::ListenerAddress, Attribute::ListenerPort, texts.listener.as_ref());
    } else {
        to.endpoint(Attribute::ListenerAddress, Attribute::ListenerPort, texts.listener.as_ref());
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
    if let Some(Handshake { time_ns, rtt_ns, synack_retransmits }) = accept.handshake {
        to.int(Attribute::HandshakeTime, time_ns);
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
