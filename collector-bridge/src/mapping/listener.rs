//! Makes the records about listeners (overflow, stall, abandoned connections, failed accepts), and the labels
//! of their metrics.

use acceptd_common::{ConnectionAbandoned, FailureKey, FailureStats, Listener, UnixName};
use acceptd_otlp::{
    Attribute, Event, NetworkType, RecordUid, SocketEndpoint, Value, errno, names, network_type,
    severity::{ERROR, INFO, WARN},
    text,
};

use super::{
    RecordContext,
    endpoint::{endpoint, listener_endpoint, non_zero, transport, visible_peer},
};
use crate::{
    identity::Identity,
    listener::{
        generated::without_generated_parts,
        overflow::Overflow,
        series::Labels,
        table::{Finding, FindingKind, KnownListener},
    },
};

/// The process that an event about a listener belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListenerOwner<'a> {
    /// The identity of the process that listens; the agent's identity if that process is unknown.
    pub(crate) identity: &'a Identity,
    /// The pid of the process that listens; `None` if it is unknown.
    pub(crate) pid: Option<u32>,
}

impl<'a> ListenerOwner<'a> {
    /// The process as a record's body names it: `name[pid]`.
    fn name(self) -> [Value<'a>; 4] {
        match self.pid {
            Some(pid) => [
                Value::Raw(&self.identity.name),
                Value::Text("["),
                Value::Int(u64::from(pid)),
                Value::Text("]"),
            ],
            None => [Value::Text("an unknown process"), Value::Text(""), Value::Text(""), Value::Text("")],
        }
    }
}

/// The record of a finding.
#[must_use]
pub(crate) fn finding_event<'a>(
    finding: &'a Finding,
    uid: RecordUid,
    owner: ListenerOwner<'a>,
    context: RecordContext<'_>,
) -> Event<'a> {
    let Finding { listener: known, boot_ns, kind } = finding;
    let address = listener_endpoint(&known.listener, &known.name);
    let push_address = |body: &mut Vec<Value<'a>>| {
        body.push(Value::Text(transport(known.listener.family, known.listener.protocol).as_str()));
        if let Some(address) = address {
            body.extend([Value::Text(" "), Value::Address(address)]);
        }
    };
    let waited = known.oldest_wait_ns(*boot_ns);
    let mut body = Vec::with_capacity(16);
    let (name, severity) = match *kind {
        FindingKind::Overflow(Overflow { refused, .. }) => {
            body.extend(owner.name());
            body.extend([
                Value::Text(" refused "),
                Value::Int(refused),
                Value::Text(" connection attempts to "),
            ]);
            push_address(&mut body);
            body.push(Value::Text(": its accept queue was full"));
            (names::EVENT_ACCEPTD_LISTENER_OVERFLOW, ERROR)
        }
        FindingKind::Stalled => {
            body.extend(owner.name());
            body.push(Value::Text(" accepts nothing on "));
            push_address(&mut body);
            body.push(Value::Text(": "));
            body.extend([
                Value::Int(u64::from(known.listener.backlog_length)),
                Value::Text(" connections wait, the oldest for "),
                Value::Milliseconds(waited.unwrap_or_default()),
                Value::Text(" ms"),
            ]);
            (names::EVENT_ACCEPTD_LISTENER_STALLED, ERROR)
        }
        FindingKind::Recovered { after_ns } => {
            body.extend(owner.name());
            body.push(Value::Text(" is no longer stalled on "));
            push_address(&mut body);
            body.extend([Value::Text(" after "), Value::Milliseconds(after_ns), Value::Text(" ms")]);
            (names::EVENT_ACCEPTD_LISTENER_STALLED, INFO)
        }
    };
    let mut event = Event {
        name,
        time_unix_nano: context.clock.unix_nanos(*boot_ns),
        observed_time_unix_nano: context.observed_unix_ns,
        uid,
        severity,
        body,
        attributes: Vec::with_capacity(16),
    };
    add_listener(&mut event, &known.listener, &known.name);
    event.add(Attribute::BacklogLength, Some(Value::Int(u64::from(known.listener.backlog_length))));
    event.add(Attribute::BacklogLimit, Some(Value::Int(u64::from(known.listener.backlog_limit))));
    match *kind {
        FindingKind::Overflow(Overflow { refused, .. }) => {
            event.add(Attribute::OverflowCount, Some(Value::Int(refused)));
        }
        FindingKind::Stalled => event.add(Attribute::StallState, Some(Value::Text("began"))),
        FindingKind::Recovered { after_ns } => {
            event.add(Attribute::StallState, Some(Value::Text("ended")));
            event.add(Attribute::StallDuration, Some(Value::Int(after_ns)));
        }
    }
    if !matches!(kind, FindingKind::Overflow(_)) {
        event.add(Attribute::OldestWait, waited.map(Value::Int));
    }
    event.add(Attribute::OwnerUnknown, owner.pid.is_none().then_some(Value::Flag(true)));
    event
}

/// The record of a connection that was closed before it was accepted.
#[must_use]
pub(crate) fn abandoned_event<'a>(
    sample: &'a ConnectionAbandoned,
    listener: Option<&'a KnownListener>,
    owner: ListenerOwner<'a>,
    context: RecordContext<'_>,
) -> Event<'a> {
    let ConnectionAbandoned { header, socket, queue_ns, listener_cookie: _ } = sample;
    let (local, mapped) = endpoint(socket.family, socket.local_addr, socket.local_port);
    let (known, _) = endpoint(socket.family, socket.peer_addr, socket.peer_port);
    let peer = visible_peer(known, context.peers);
    let transport = transport(socket.family, socket.protocol).as_str();
    let mut body = Vec::with_capacity(16);
    body.extend(owner.name());
    body.extend([Value::Text(" never accepted "), Value::Text(transport)]);
    if let (Some(peer), Some(local)) = (peer, local) {
        body.extend([Value::Text(" "), Value::Address(peer), Value::Text(" -> "), Value::Address(local)]);
    }
    if let Some(nanos) = non_zero(*queue_ns) {
        body.extend([
            Value::Text(", closed after "),
            Value::Milliseconds(nanos),
            Value::Text(" ms in queue"),
        ]);
    }
    let mut event = Event {
        name: names::EVENT_ACCEPTD_LISTENER_ABANDONED,
        time_unix_nano: context.clock.unix_nanos(header.boot_ns),
        observed_time_unix_nano: context.observed_unix_ns,
        uid: context.ids.record_uid(header.cpu, header.sequence),
        severity: WARN,
        body,
        attributes: Vec::with_capacity(16),
    };
    event.add(Attribute::Transport, Some(Value::Text(transport)));
    let kind = local.as_ref().and_then(network_type).map(|kind| Value::Text(kind.as_str()));
    event.add(Attribute::NetworkType, kind);
    event.add_endpoint(Attribute::LocalAddress, Attribute::LocalPort, local);
    event.add(Attribute::PeerAddress, peer.map(Value::Address));
    // The kernel clears the peer's port of a connection that is reset in the queue.
    let port = peer.and_then(|_| non_zero(u64::from(u16::from_be(socket.peer_port))));
    event.add(Attribute::PeerPort, port.map(Value::Int));
    event.add(Attribute::SocketCookie, non_zero(socket.cookie).map(Value::Id));
    event.add(Attribute::QueueTime, non_zero(*queue_ns).map(Value::Int));
    event.add(Attribute::V4Mapped, mapped.then_some(Value::Flag(true)));
    if let Some(KnownListener { listener, name, .. }) = listener {
        let address = listener_endpoint(listener, name);
        event.add_endpoint(Attribute::ListenerAddress, Attribute::ListenerPort, address);
        event.add(Attribute::ListenerInode, non_zero(listener.inode).map(Value::Int));
        event.add(Attribute::ListenerCookie, non_zero(listener.cookie).map(Value::Id));
    }
    event.add(Attribute::NetnsInode, non_zero(u64::from(socket.netns)).map(Value::Int));
    event.add(Attribute::OwnerUnknown, owner.pid.is_none().then_some(Value::Flag(true)));
    event
}

/// How often a process failed to accept from one listener with one errno.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailureCount<'a> {
    /// Listener, process and errno.
    pub(crate) key: &'a FailureKey,
    /// The kernel's sample of the first failure.
    pub(crate) first: &'a FailureStats,
    /// Number of failures in the interval.
    pub(crate) count: u64,
    /// Length of the interval in nanoseconds.
    pub(crate) interval_ns: u64,
    /// The name of a UNIX listener.
    pub(crate) name: &'a UnixName,
}

/// The record of a count of failures. `boot_ns` is the end of the interval.
#[must_use]
pub(crate) fn failures_event<'a>(
    failures: FailureCount<'a>,
    boot_ns: u64,
    uid: RecordUid,
    owner: ListenerOwner<'a>,
    context: RecordContext<'_>,
) -> Event<'a> {
    let FailureCount { key, first, count, interval_ns, name } = failures;
    let code = i32::try_from(key.errno).unwrap_or(i32::MAX);
    let mut body = Vec::with_capacity(16);
    body.extend(owner.name());
    body.push(Value::Text(" failed to accept"));
    if let Some(address) = listener_endpoint(&first.socket, name) {
        body.extend([Value::Text(" on "), Value::Address(address)]);
    }
    body.extend([
        Value::Text(": "),
        Value::Text(errno::symbol(code)),
        Value::Text(", "),
        Value::Int(count),
        Value::Text(" times"),
    ]);
    let mut event = Event {
        name: names::EVENT_ACCEPTD_LISTENER_FAILURES,
        time_unix_nano: context.clock.unix_nanos(boot_ns),
        observed_time_unix_nano: context.observed_unix_ns,
        uid,
        severity: errno::severity(Some(code)),
        body,
        attributes: Vec::with_capacity(12),
    };
    if first.socket.family != 0 {
        add_listener(&mut event, &first.socket, name);
    }
    event.add(Attribute::ErrorType, Some(Value::Text(errno::symbol(code))));
    event.add(Attribute::FailureCount, Some(Value::Int(count)));
    event.add(Attribute::Interval, Some(Value::Int(interval_ns)));
    event
}

/// The labels of a listener's series. `host_netns` is the host's network namespace.
#[must_use]
pub(crate) fn series_labels(
    listener: &Listener,
    name: &UnixName,
    owner: Option<&Identity>,
    host_netns: Option<u32>,
) -> Labels {
    let endpoint = listener_endpoint(listener, name);
    let (address, port) = match endpoint {
        Some(SocketEndpoint::Ip { addr, port }) => (Some(addr.to_string()), Some(u32::from(port))),
        Some(SocketEndpoint::Vsock { cid, port }) => (Some(cid.to_string()), Some(port)),
        Some(unix @ SocketEndpoint::Unix(_)) => (Some(without_generated_parts(&unix.to_string())), None),
        None => (None, None),
    };
    Labels {
        transport: transport(listener.family, listener.protocol).as_str(),
        network_type: endpoint.as_ref().and_then(network_type).map(NetworkType::as_str),
        address,
        port,
        service: owner.map_or_else(String::new, |owner| owner.service.clone()),
        executable: owner.map_or_else(String::new, |owner| text::escape(&owner.name, MAX_LABEL_BYTES)),
        netns: (listener.netns != 0 && Some(listener.netns) != host_netns).then_some(listener.netns),
        container: owner.and_then(|owner| owner.container_id.clone()),
        pod: owner.and_then(|owner| owner.pod_uid.clone()),
    }
}

/// Most bytes of the executable's name in a label.
const MAX_LABEL_BYTES: usize = 256;

/// Adds the attributes that name a listener.
fn add_listener<'a>(event: &mut Event<'a>, listener: &Listener, name: &'a UnixName) {
    let transport = transport(listener.family, listener.protocol);
    event.add(Attribute::Transport, Some(Value::Text(transport.as_str())));
    let address: Option<SocketEndpoint<'a>> = listener_endpoint(listener, name);
    let kind = address.as_ref().and_then(network_type).map(|kind| Value::Text(kind.as_str()));
    event.add(Attribute::NetworkType, kind);
    event.add_endpoint(Attribute::ListenerAddress, Attribute::ListenerPort, address);
    event.add(Attribute::ListenerInode, non_zero(listener.inode).map(Value::Int));
    event.add(Attribute::ListenerCookie, non_zero(listener.cookie).map(Value::Id));
    event.add(Attribute::NetnsInode, non_zero(u64::from(listener.netns)).map(Value::Int));
}
