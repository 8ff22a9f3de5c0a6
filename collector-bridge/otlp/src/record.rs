//! One accept, and its log record written as protobuf bytes.
//!
//! By hand, because encoding is the largest part of a record's cost otherwise (docs/results has the figures).
//! Every test decodes what is written here with opentelemetry-proto.

use std::{
    fmt,
    io::{Cursor, Write as _},
    net::IpAddr,
};

use crate::{
    errno, names,
    profile::{Attribute, Profile},
    text::escape_into,
    wire::{bytes, fixed64, header, nested, uint, varint_len},
};

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
    pub local: Option<Endpoint>,
    /// The peer's end.
    pub peer: Option<Endpoint>,
    /// What the listener is bound to.
    pub listener: Option<Endpoint>,
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
    /// Which call.
    pub syscall: Syscall,
    /// False when nothing proves that the socket is the one that the call returned.
    pub verified: bool,
    /// The agent's own.
    pub self_accept: bool,
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

/// An address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// IP address.
    pub addr: IpAddr,
    /// Port, host order.
    pub port: u16,
}

/// `network.transport`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, also Multipath TCP.
    Tcp,
    /// SCTP.
    Sctp,
}

impl Transport {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Sctp => "sctp",
        }
    }
}

/// `network.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkType {
    /// IPv4, also on an IPv6 socket.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl NetworkType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// `acceptd.accept.syscall`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syscall {
    /// accept(2)
    Accept,
    /// accept4(2)
    Accept4,
}

impl Syscall {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Accept4 => "accept4",
        }
    }
}

/// `log.record.uid`: the same for every copy of a record, another for every other record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordUid {
    /// Hash of host, boot and load of the programs.
    pub epoch: u64,
    /// CPU that captured the event; `ffff` for records made in user space.
    pub cpu: u16,
    /// Number of the event on that CPU; its low 48 bits are shown.
    pub sequence: u64,
}

impl fmt::Display for RecordUid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016X}-{:04X}-{:012X}", self.epoch, self.cpu, self.sequence & 0xffff_ffff_ffff)
    }
}

/// Appends one `LogRecord` message: its fields, without tag and length of its own.
pub fn encode_accept(out: &mut Vec<u8>, accept: &Accept<'_>, profile: &Profile) {
    let texts = Texts::of(accept);
    fixed64::<1>(out, accept.time_unix_nano);
    uint::<2>(out, u64::from(errno::severity(accept.errno)));
    nested::<5>(out, |out| nested::<1>(out, |out| body(out, accept, &texts, profile.value_length)));
    attributes(&mut Attributes { out, profile }, accept, &texts);
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
struct Texts {
    local: Option<(Text<46>, Endpoint)>,
    peer: Option<(Text<46>, Endpoint)>,
    listener: Option<(Text<46>, Endpoint)>,
}

impl Texts {
    fn of(accept: &Accept<'_>) -> Self {
        let text =
            |endpoint: Option<Endpoint>| endpoint.map(|endpoint| (Text::of_address(endpoint.addr), endpoint));
        Self { local: text(accept.local), peer: text(accept.peer), listener: text(accept.listener) }
    }
}

/// A short text on the stack.
struct Text<const N: usize> {
    buffer: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// What fits of it.
    fn of(content: impl fmt::Display) -> Self {
        let mut cursor = Cursor::new([0; N]);
        // A text that does not fit is cut: every caller's N is the longest there is.
        _ = write!(cursor, "{content}");
        let length = usize::try_from(cursor.position()).unwrap_or(N);
        Self { buffer: cursor.into_inner(), length }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Text<46> {
    /// An address as RFC 5952 has it. IPv4 by hand: the formatting machinery costs as much as half a record.
    fn of_address(address: IpAddr) -> Self {
        let IpAddr::V4(address) = address else { return Self::of(address) };
        let mut text = Self { buffer: [0; 46], length: 0 };
        for (index, octet) in address.octets().into_iter().enumerate() {
            if index > 0 {
                text.push(b".");
            }
            text.push(itoa::Buffer::new().format(octet).as_bytes());
        }
        text
    }

    fn push(&mut self, piece: &[u8]) {
        self.buffer[self.length..self.length + piece.len()].copy_from_slice(piece);
        self.length += piece.len();
    }
}

/// `nginx[812] accepted tcp 10.0.0.7:51514 -> 10.1.2.80:443 after 1.2 ms in queue`
fn body(out: &mut Vec<u8>, accept: &Accept<'_>, texts: &Texts, limit: usize) {
    // Half for the name at most: the rest has to follow.
    escape_into(out, accept.process_name, limit / 2);
    out.push(b'[');
    number(out, accept.pid);
    out.extend_from_slice(b"] ");
    let transport = accept.transport.as_str().as_bytes();
    if let Some(errno) = accept.errno {
        out.extend_from_slice(b"failed to accept ");
        out.extend_from_slice(transport);
        on_listener(out, texts);
        out.extend_from_slice(b": ");
        out.extend_from_slice(errno::symbol(errno).as_bytes());
        return;
    }
    out.extend_from_slice(b"accepted ");
    out.extend_from_slice(transport);
    match (&texts.peer, &texts.local) {
        (Some(peer), Some(local)) => {
            out.push(b' ');
            endpoint(out, peer);
            out.extend_from_slice(b" -> ");
            endpoint(out, local);
        }
        _ => on_listener(out, texts),
    }
    if let Some(nanos) = accept.queue_time_ns {
        out.extend_from_slice(b" after ");
        milliseconds(out, nanos);
        out.extend_from_slice(b" ms in queue");
    }
}

fn on_listener(out: &mut Vec<u8>, texts: &Texts) {
    if let Some(listener) = &texts.listener {
        out.extend_from_slice(b" on ");
        endpoint(out, listener);
    }
}

fn endpoint(out: &mut Vec<u8>, (text, endpoint): &(Text<46>, Endpoint)) {
    if endpoint.addr.is_ipv6() {
        out.push(b'[');
        out.extend_from_slice(text.as_bytes());
        out.push(b']');
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b':');
    number(out, endpoint.port);
}

fn number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with one decimal place, rounded down.
fn milliseconds(out: &mut Vec<u8>, nanos: u64) {
    let tenths = nanos / 100_000;
    number(out, tenths / 10);
    out.push(b'.');
    number(out, tenths % 10);
}

fn attributes(to: &mut Attributes<'_>, accept: &Accept<'_>, texts: &Texts) {
    to.text(Attribute::Transport, accept.transport.as_str());
    if let Some(network_type) = accept.network_type {
        to.text(Attribute::NetworkType, network_type.as_str());
    }
    to.endpoint(Attribute::LocalAddress, Attribute::LocalPort, texts.local.as_ref());
    to.endpoint(Attribute::PeerAddress, Attribute::PeerPort, texts.peer.as_ref());
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
    to.text(Attribute::Syscall, accept.syscall.as_str());
    to.flag(Attribute::Verified, !accept.verified, false);
    to.flag(Attribute::Mptcp, accept.mptcp, true);
    to.flag(Attribute::V4Mapped, accept.v4_mapped, true);
    to.flag(Attribute::SelfAccept, accept.self_accept, true);
    to.int(Attribute::NetnsInode, (accept.netns_inode != 0).then_some(u64::from(accept.netns_inode)));
    to.int(Attribute::ThreadId, Some(u64::from(accept.thread_id)));
    to.raw(Attribute::ThreadName, accept.thread_name);
    to.int(Attribute::CaptureTier, Some(u64::from(accept.capture_tier)));
    if to.profile.event_name_attribute {
        string(to.out, names::OTEL_EVENT_NAME, names::EVENT_ACCEPTD_SOCKET_ACCEPT.as_bytes());
    }
}

/// Writes the attributes that the profile wants, as `KeyValue` messages in field 6.
struct Attributes<'a> {
    out: &'a mut Vec<u8>,
    profile: &'a Profile,
}

impl Attributes<'_> {
    fn text(&mut self, attribute: Attribute, value: &str) {
        self.bytes(attribute, value.as_bytes());
    }

    /// Bytes that are UTF-8 by construction.
    fn bytes(&mut self, attribute: Attribute, value: &[u8]) {
        if self.profile.wants(attribute) {
            string(self.out, attribute.key(), value);
        }
    }

    /// Any bytes.
    fn raw(&mut self, attribute: Attribute, value: &[u8]) {
        if self.profile.wants(attribute) {
            let limit = self.profile.value_length;
            nested::<6>(self.out, |out| {
                bytes::<1>(out, attribute.key().as_bytes());
                nested::<2>(out, |out| nested::<1>(out, |out| escape_into(out, value, limit)));
            });
        }
    }

    /// A cookie: a decimal string, because some exceed a signed integer.
    fn id(&mut self, attribute: Attribute, value: Option<u64>) {
        if let Some(value) = value {
            self.bytes(attribute, itoa::Buffer::new().format(value).as_bytes());
        }
    }

    fn int(&mut self, attribute: Attribute, value: Option<u64>) {
        if let Some(value) = value
            && self.profile.wants(attribute)
        {
            int(self.out, attribute.key(), value);
        }
    }

    /// A boolean that is only sent when it is of interest.
    fn flag(&mut self, attribute: Attribute, present: bool, value: bool) {
        if present && self.profile.wants(attribute) {
            boolean(self.out, attribute.key(), value);
        }
    }

    fn endpoint(&mut self, address: Attribute, port: Attribute, endpoint: Option<&(Text<46>, Endpoint)>) {
        if let Some((text, endpoint)) = endpoint {
            self.bytes(address, text.as_bytes());
            self.int(port, Some(u64::from(endpoint.port)));
        }
    }

    fn endpoint_always(
        &mut self,
        address: Attribute,
        port: Attribute,
        endpoint: Option<&(Text<46>, Endpoint)>,
    ) {
        if let Some((text, endpoint)) = endpoint {
            if !self.profile.excludes(address) {
                string(self.out, address.key(), text.as_bytes());
            }
            if !self.profile.excludes(port) {
                int(self.out, port.key(), u64::from(endpoint.port));
            }
        }
    }
}

/// `RecordUid`'s `Display`, without the formatting machinery.
fn uid_text(uid: RecordUid) -> [u8; 34] {
    let mut text = [b'-'; 34];
    hex(&mut text[..16], uid.epoch);
    hex(&mut text[17..21], u64::from(uid.cpu));
    hex(&mut text[22..], uid.sequence);
    text
}

/// The low digits of `value` that fit.
fn hex(out: &mut [u8], value: u64) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = value;
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[usize::from(rest.to_le_bytes()[0] & 15)];
        rest >>= 4;
    }
}

/// A `KeyValue` in field 6 whose value is a string.
fn string(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let any_value = 1 + varint_len(value.len() as u64) + value.len();
    key_value(out, key, any_value, |out| bytes::<1>(out, value));
}

/// A `KeyValue` in field 6 whose value is an integer; beyond `i64` it would be negative.
fn int(out: &mut Vec<u8>, key: &str, value: u64) {
    key_value(out, key, 1 + varint_len(value), |out| uint::<3>(out, value));
}

/// A `KeyValue` in field 6 whose value is a boolean.
fn boolean(out: &mut Vec<u8>, key: &str, value: bool) {
    key_value(out, key, 2, |out| uint::<2>(out, u64::from(value)));
}

fn key_value(out: &mut Vec<u8>, key: &str, any_value: usize, value: impl FnOnce(&mut Vec<u8>)) {
    let key_field = 1 + varint_len(key.len() as u64) + key.len();
    let value_field = 1 + varint_len(any_value as u64) + any_value;
    header::<6>(out, key_field + value_field);
    bytes::<1>(out, key.as_bytes());
    header::<2>(out, any_value);
    value(out);
}
