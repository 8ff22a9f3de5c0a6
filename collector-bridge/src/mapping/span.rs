//! Makes the spans of a connection's trace: the child spans (handshake, queue) at the accept, the root span
//! at the close.
//!
//! All times use the clock anchor that the programs stored at the accept, so that child spans stay within the
//! root span even when the wall clock is stepped in between.

use acceptd_common::{
    AcceptCall, ConnectionClosed, Handshake, InetAccept, TraceDecision, UnixAccept, UnixName, sample,
};
use acceptd_otlp::{
    Attribute, SocketEndpoint, Span, SpanKind, Threshold, Transport, Value, errno, names, network_type,
};

use super::{
    RecordContext,
    endpoint::{endpoint, non_zero, transport, unix_endpoint, visible_peer},
    ids::SpanRole,
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

/// How spans are written: settings that the configuration has and samples do not.
#[derive(Debug, Clone, Copy)]
pub struct SpanStyle {
    /// The kind of the root span (`traces.connection_kind`).
    pub connection_kind: SpanKind,
}

/// The two endpoints of a connection.
#[derive(Debug, Clone, Copy)]
struct Endpoints<'a> {
    transport: Transport,
    local: Option<SocketEndpoint<'a>>,
    peer: Option<SocketEndpoint<'a>>,
}

impl<'a> Endpoints<'a> {
    fn from_inet(socket: &sample::Connection, context: RecordContext<'_>) -> Self {
        Self {
            transport: transport(socket.family, socket.protocol),
            local: endpoint(socket.family, socket.local_addr, socket.local_port).0,
            peer: visible_peer(endpoint(socket.family, socket.peer_addr, socket.peer_port).0, context.peers),
        }
    }

    fn from_unix(local: &'a UnixName, peer: &'a UnixName, context: RecordContext<'_>) -> Self {
        Self {
            transport: Transport::Unix,
            local: unix_endpoint(local),
            peer: visible_peer(unix_endpoint(peer), context.peers),
        }
    }
}

/// Start and end of a span, nanoseconds on `CLOCK_BOOTTIME`.
type Interval = (u64, u64);

/// The handshake span and the queue span of an accepted internet connection; `None` for each that is unknown,
/// and for both if the connection is not traced.
#[must_use]
pub(crate) fn inet_accept_spans<'a>(
    sample: &InetAccept,
    style: SpanStyle,
    context: RecordContext<'_>,
) -> [Option<Span<'a>>; 2] {
    let InetAccept { header, call, socket, handshake, trace, .. } = sample;
    let Some(queue) = queue_interval(header.boot_ns, call, trace) else { return [None, None] };
    let endpoints = Endpoints::from_inet(socket, context);
    let child = |role, interval| child_span(role, interval, trace, socket.cookie, endpoints, style, context);
    let duration = (handshake.known == Handshake::MEASURED).then_some(handshake.time_ns).and_then(non_zero);
    let handshake_span = duration.map(|time_ns| {
        let mut span = child(SpanRole::Handshake, (queue.0.saturating_sub(time_ns), queue.0));
        span.add(Attribute::HandshakeTime, Some(Value::Int(time_ns)));
        span.add(Attribute::RoundTripTime, non_zero(handshake.rtt_ns).map(Value::Int));
        span.add(Attribute::SynackRetransmits, Some(Value::Int(u64::from(handshake.synack_retransmits))));
        span
    });
    [handshake_span, Some(with_queue_time(child(SpanRole::Queue, queue), call))]
}

/// The queue span of an accepted UNIX connection, which has no handshake; `None` if the connection is not
/// traced or its queue time is unknown.
#[must_use]
pub(crate) fn unix_accept_span<'a>(
    sample: &'a UnixAccept,
    style: SpanStyle,
    context: RecordContext<'_>,
) -> Option<Span<'a>> {
    let UnixAccept { header, call, cookie, local, peer, trace, .. } = sample;
    let queue = queue_interval(header.boot_ns, call, trace)?;
    let endpoints = Endpoints::from_unix(local, peer, context);
    Some(with_queue_time(child_span(SpanRole::Queue, queue, trace, *cookie, endpoints, style, context), call))
}

/// When the connection was in the accept queue; `None` if it is not traced or its queue time is unknown.
fn queue_interval(accepted_ns: u64, call: &AcceptCall, trace: &TraceDecision) -> Option<Interval> {
    let is_known = trace.flags & TraceDecision::TRACED != 0 && call.flags & AcceptCall::HAS_QUEUE_TIME != 0;
    is_known.then(|| (accepted_ns.saturating_sub(call.queue_ns), accepted_ns))
}

fn with_queue_time<'a>(mut span: Span<'a>, call: &AcceptCall) -> Span<'a> {
    span.add(Attribute::QueueTime, Some(Value::Int(call.queue_ns)));
    span
}

/// A child of the connection's root span.
fn child_span<'a>(
    role: SpanRole,
    interval: Interval,
    trace: &TraceDecision,
    cookie: u64,
    endpoints: Endpoints<'a>,
    style: SpanStyle,
    context: RecordContext<'_>,
) -> Span<'a> {
    let (_, parent) = context.ids.trace_and_span_id(cookie, SpanRole::Connection);
    Span {
        parent: Some(parent),
        kind: SpanKind::Internal,
        ..span(role, interval, trace, cookie, endpoints, style, context)
    }
}

/// The root span of a connection that closed.
#[must_use]
pub(crate) fn connection_span<'a>(
    sample: &'a ConnectionClosed,
    style: SpanStyle,
    context: RecordContext<'_>,
) -> Span<'a> {
    let ConnectionClosed { header, traced, socket, local, peer, .. } = sample;
    let endpoints = match transport(socket.family, socket.protocol) {
        Transport::Unix => Endpoints::from_unix(local, peer, context),
        _ => Endpoints::from_inet(socket, context),
    };
    let interval = (traced.began_ns, header.boot_ns);
    let mut span =
        span(SpanRole::Connection, interval, &traced.trace, socket.cookie, endpoints, style, context);
    if sample.flags & ConnectionClosed::HAS_TCP != 0 {
        span.add(Attribute::BytesReceived, Some(Value::Int(sample.received)));
        span.add(Attribute::BytesSent, Some(Value::Int(sample.sent)));
        span.add(Attribute::Retransmits, Some(Value::Int(u64::from(sample.retransmits))));
        let is_true = traced.trace.flags & TraceDecision::FALSE_ROUND_TRIP == 0;
        span.add(Attribute::RoundTripTime, non_zero(sample.rtt_ns).filter(|_| is_true).map(Value::Int));
        span.add(Attribute::ClosedBy, closed_by(sample.old_state, sample.error).map(Value::Text));
        let error = i32::try_from(sample.error).ok().filter(|error| *error != 0);
        span.failed = error.is_some();
        span.add(Attribute::ErrorType, error.map(|error| Value::Text(errno::symbol(error))));
    }
    span
}

/// Which end closed a TCP connection first, from its state and error at the close. `None` if a timer closed
/// it, or if the state does not show it.
fn closed_by(old_state: u8, error: u32) -> Option<&'static str> {
    match (error, old_state) {
        // In these states the local end sent its FIN before it received the peer's.
        (0 | ECONNRESET | EPIPE, FIN_WAIT1 | FIN_WAIT2 | TIME_WAIT | CLOSING) => Some("local"),
        (0 | ECONNRESET | EPIPE, CLOSE_WAIT | LAST_ACK) | (ECONNRESET | EPIPE, _) => Some("peer"),
        (0, ESTABLISHED) => Some("local"),
        _ => None,
    }
}

/// A span with everything that all spans of a trace share.
fn span<'a>(
    role: SpanRole,
    (start, end): Interval,
    trace: &TraceDecision,
    cookie: u64,
    endpoints: Endpoints<'a>,
    style: SpanStyle,
    context: RecordContext<'_>,
) -> Span<'a> {
    let (trace_id, span_id) = context.ids.trace_and_span_id(cookie, role);
    let time = |boot_ns: u64| match trace.anchor_ns {
        0 => context.clock.unix_nanos(boot_ns),
        anchor => anchor.saturating_add(boot_ns),
    };
    let by_ratio = trace.flags & TraceDecision::BY_RATIO != 0;
    let mut span = Span {
        trace_id,
        span_id,
        parent: None,
        name: match role {
            SpanRole::Connection => names::SPAN_SOCKET_CONNECTION,
            SpanRole::Handshake => names::SPAN_TCP_HANDSHAKE,
            SpanRole::Queue => names::SPAN_ACCEPT_QUEUE,
        },
        kind: style.connection_kind,
        start_unix_nano: time(start),
        end_unix_nano: time(end),
        threshold: by_ratio.then_some(Threshold(trace.threshold)),
        failed: false,
        attributes: Vec::with_capacity(20),
    };
    add_endpoints(&mut span, endpoints);
    span.add(Attribute::SocketCookie, Some(Value::Id(cookie)));
    span.add(Attribute::SamplingReason, (!by_ratio).then_some(Value::Text("slow")));
    for (flag, attribute) in
        [(TraceDecision::PREEXISTING, Attribute::Preexisting), (TraceDecision::MPTCP, Attribute::Mptcp)]
    {
        span.add(attribute, (trace.flags & flag != 0).then_some(Value::Flag(true)));
    }
    span
}

fn add_endpoints<'a>(span: &mut Span<'a>, Endpoints { transport, local, peer }: Endpoints<'a>) {
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
