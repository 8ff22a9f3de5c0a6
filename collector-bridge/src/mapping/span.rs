//! The trace of a connection: its parts at the accept, the whole when it ends. All times are by the anchor of the accept, so that
//! parts stay within the whole, whatever the clock did meanwhile.

use acceptd_common::{Call, Closed, InetAccept, Trace, UnixAccept, UnixName, sample};
use acceptd_otlp::{
    Attribute, Endpoint, Span, SpanKind, Threshold, Transport, Value, errno, names, network_type,
};

use super::{Context, endpoint, non_zero, peer, transport, unix_endpoint};
use crate::{
    mapping::ids::{Connection, Role},
    pipeline::spans::Look,
};

// include/net/tcp_states.h
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

// include/uapi/asm-generic/errno.h
const EPIPE: u32 = 32;
const ECONNRESET: u32 = 104;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
struct Ends<'a> {
    transport: Transport,
    local: Option<Endpoint<'a>>,
    peer: Option<Endpoint<'a>>,
}

impl<'a> Ends<'a> {
    fn of_inet(socket: &sample::Connection, context: Context<'_>) -> Self {
        Self {
            transport: transport(socket.family, socket.protocol),
            local: endpoint(socket.family, socket.local_addr, socket.local_port).0,
            peer: peer(endpoint(socket.family, socket.peer_addr, socket.peer_port).0, context.peers),
        }
    }

    fn of_unix(local: &'a UnixName, name: &'a UnixName, context: Context<'_>) -> Self {
        Self {
            transport: Transport::Unix,
            local: unix_endpoint(local),
            peer: peer(unix_endpoint(name), context.peers),
        }
    }
}

/// Times between which a part was, nanoseconds on `CLOCK_BOOTTIME`.
type Interval = (u64, u64);

/// The parts of a connection's trace that are over with its accept; none when it has no trace.
#[must_use]
pub fn parts_of_inet<'a>(sample: &InetAccept, look: Look, context: Context<'_>) -> [Option<Span<'a>>; 2] {
    let InetAccept { header, call, socket, handshake, trace, .. } = sample;
    let Some(queue) = queued(header.boot_ns, call, trace) else { return [None, None] };
    let ends = Ends::of_inet(socket, context);
    let part = |role, interval| part(role, interval, trace, socket.cookie, ends, look, context);
    let shook = (handshake.is_known != 0).then_some(handshake.time_ns).and_then(non_zero);
    let shook = shook.map(|time_ns| {
        let mut span = part(Role::Handshake, (queue.0.saturating_sub(time_ns), queue.0));
        span.add(Attribute::HandshakeTime, Some(Value::Int(time_ns)));
        span.add(Attribute::RoundTripTime, non_zero(handshake.rtt_ns).map(Value::Int));
        span.add(Attribute::SynackRetransmits, Some(Value::Int(u64::from(handshake.synack_retransmits))));
        span
    });
    [shook, Some(waited(part(Role::Queue, queue), call))]
}

/// Likewise of a UNIX socket, which has no handshake.
#[must_use]
pub fn part_of_unix<'a>(sample: &'a UnixAccept, look: Look, context: Context<'_>) -> Option<Span<'a>> {
    let UnixAccept { header, call, cookie, local, peer: name, trace, .. } = sample;
    let queue = queued(header.boot_ns, call, trace)?;
    let ends = Ends::of_unix(local, name, context);
    Some(waited(part(Role::Queue, queue, trace, *cookie, ends, look, context), call))
}

/// When the connection was in the queue, if it has a trace and that is known.
fn queued(accepted_ns: u64, call: &Call, trace: &Trace) -> Option<Interval> {
    let is_known = trace.flags & Trace::SAMPLED != 0 && call.flags & Call::HAS_QUEUE_TIME != 0;
    is_known.then(|| (accepted_ns.saturating_sub(call.queue_ns), accepted_ns))
}

fn waited<'a>(mut span: Span<'a>, call: &Call) -> Span<'a> {
    span.add(Attribute::QueueTime, Some(Value::Int(call.queue_ns)));
    span
}

fn part<'a>(
    role: Role,
    interval: Interval,
    trace: &Trace,
    cookie: u64,
    ends: Ends<'a>,
    look: Look,
    context: Context<'_>,
) -> Span<'a> {
    let (_, parent) = context.ids.trace(Connection::Cookie(cookie), Role::Connection);
    Span {
        parent: Some(parent),
        kind: SpanKind::Internal,
        ..span(role, interval, trace, cookie, ends, look, context)
    }
}

/// A connection that ended.
#[must_use]
pub fn connection<'a>(sample: &'a Closed, look: Look, context: Context<'_>) -> Span<'a> {
    let Closed { header, open, socket, local, peer: name, .. } = sample;
    let ends = match transport(socket.family, socket.protocol) {
        Transport::Unix => Ends::of_unix(local, name, context),
        _ => Ends::of_inet(socket, context),
    };
    let interval = (open.began_ns, header.boot_ns);
    let mut span = span(Role::Connection, interval, &open.trace, socket.cookie, ends, look, context);
    if sample.flags & Closed::HAS_TCP != 0 {
        span.add(Attribute::BytesReceived, Some(Value::Int(sample.received)));
        span.add(Attribute::BytesSent, Some(Value::Int(sample.sent)));
        span.add(Attribute::Retransmits, Some(Value::Int(u64::from(sample.retransmits))));
        span.add(Attribute::RoundTripTime, non_zero(sample.rtt_ns).map(Value::Int));
        span.add(Attribute::ClosedBy, closed_by(sample.old_state, sample.error).map(Value::Text));
        let error = i32::try_from(sample.error).ok().filter(|error| *error != 0);
        span.failed = error.is_some();
        span.add(Attribute::ErrorType, error.map(|error| Value::Text(errno::symbol(error))));
    }
    span
}

/// Who ended a TCP connection that was in this state when it closed, with this error. An end by a timer was nobody's.
fn closed_by(old_state: u8, error: u32) -> Option<&'static str> {
    match (error, old_state) {
        // Whoever was first, however the other one answered.
        (0 | ECONNRESET | EPIPE, FIN_WAIT1 | FIN_WAIT2 | TIME_WAIT | CLOSING) => Some("local"),
        (0 | ECONNRESET | EPIPE, CLOSE_WAIT | LAST_ACK) | (ECONNRESET | EPIPE, _) => Some("peer"),
        (0, ESTABLISHED) => Some("local"),
        _ => None,
    }
}

fn span<'a>(
    role: Role,
    (start, end): Interval,
    trace: &Trace,
    cookie: u64,
    ends: Ends<'a>,
    look: Look,
    context: Context<'_>,
) -> Span<'a> {
    let (trace_id, span_id) = context.ids.trace(Connection::Cookie(cookie), role);
    let time = |boot_ns: u64| match trace.anchor_ns {
        0 => context.clock.unix_nanos(boot_ns),
        anchor => anchor.saturating_add(boot_ns),
    };
    let by_ratio = trace.flags & Trace::BY_RATIO != 0;
    let mut span = Span {
        trace_id,
        span_id,
        parent: None,
        name: match role {
            Role::Connection => names::SPAN_SOCKET_CONNECTION,
            Role::Handshake => names::SPAN_TCP_HANDSHAKE,
            Role::Queue => names::SPAN_ACCEPT_QUEUE,
        },
        kind: look.connection_kind,
        start_unix_nano: time(start),
        end_unix_nano: time(end),
        threshold: by_ratio.then_some(Threshold(trace.threshold)),
        failed: false,
        attributes: Vec::with_capacity(20),
    };
    describe(&mut span, ends);
    span.add(Attribute::SocketCookie, Some(Value::Id(cookie)));
    span.add(Attribute::SamplingReason, (!by_ratio).then_some(Value::Text("slow")));
    for (flag, attribute) in [(Trace::PREEXISTING, Attribute::Preexisting), (Trace::MPTCP, Attribute::Mptcp)]
    {
        span.add(attribute, (trace.flags & flag != 0).then_some(Value::Flag(true)));
    }
    span
}

fn describe<'a>(span: &mut Span<'a>, Ends { transport, local, peer }: Ends<'a>) {
    span.add(Attribute::Transport, Some(Value::Text(transport.as_str())));
    let network = local.as_ref().and_then(network_type);
    span.add(Attribute::NetworkType, network.map(|network| Value::Text(network.as_str())));
    for (address, port, end) in [
        (Attribute::LocalAddress, Attribute::LocalPort, local),
        (Attribute::PeerAddress, Attribute::PeerPort, peer),
        (Attribute::ServerAddress, Attribute::ServerPort, local),
        (Attribute::ClientAddress, Attribute::ClientPort, peer),
    ] {
        span.add_endpoint(address, port, end);
    }
}
