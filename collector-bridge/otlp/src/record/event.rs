//! The log record of every event except the accept. These events are rare, so all of them share one struct
//! with a list of attributes.

use super::{
    address::{FormattedEndpoint, SocketEndpoint, milliseconds},
    attributes::{AttributeWriter, LOG_RECORD_ATTRIBUTES, any_string, boolean, int, string, strings},
    uid::{RecordUid, uid_text},
};
use crate::{
    attribute_filter::{Attribute, AttributeFilter},
    text::escape_into,
    wire::{bytes, fixed64, nested, uint},
};

/// An event other than an accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// `event_name`
    pub name: &'static str,
    /// When the event happened, in nanoseconds since the Unix epoch.
    pub time_unix_nano: u64,
    /// When user space observed the event, in nanoseconds since the Unix epoch.
    pub observed_time_unix_nano: u64,
    /// `log.record.uid`
    pub uid: RecordUid,
    /// `severity_number`
    pub severity: u8,
    /// The pieces of the display line, which is the body of the record.
    pub body: Vec<Value<'a>>,
    /// The attributes, each at most once.
    pub attributes: Vec<(Attribute, Value<'a>)>,
}

/// The value of an attribute, or a piece of a display line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// A constant text, which needs no escaping.
    Text(&'static str),
    /// Text of any bytes: it is escaped and cut.
    Raw(&'a [u8]),
    /// An integer. OTLP integers are signed: a receiver reads a value above `i64::MAX` as negative.
    Int(u64),
    /// A socket cookie, as a decimal string: OTLP integers are signed, and a cookie may exceed them.
    Id(u64),
    /// A boolean.
    Flag(bool),
    /// Constant texts: an array in an attribute, separated by commas in a display line.
    Texts(&'a [&'static str]),
    /// A duration in nanoseconds. A display line shows it in milliseconds with one decimal place.
    Milliseconds(u64),
    /// The address of an endpoint. A display line shows its port, too.
    Address(SocketEndpoint<'a>),
}

/// Appends the fields of one `LogRecord` message, without the tag and length of the message itself.
pub fn encode_event(out: &mut Vec<u8>, event: &Event<'_>, filter: &AttributeFilter) {
    fixed64::<1>(out, event.time_unix_nano);
    uint::<2>(out, u64::from(event.severity));
    nested::<5>(out, |out| {
        nested::<1>(out, |out| {
            for piece in &event.body {
                write_text(out, piece, filter.value_length / 2);
            }
        });
    });
    if !filter.excludes(Attribute::Uid) {
        string::<LOG_RECORD_ATTRIBUTES>(out, Attribute::Uid.key(), &uid_text(event.uid));
    }
    for (attribute, value) in &event.attributes {
        // Context attributes follow the filter's set. The others define the event: they are sent unless they
        // are excluded by name.
        let sent =
            if attribute.is_context() { filter.includes(*attribute) } else { !filter.excludes(*attribute) };
        if sent {
            attribute_value::<LOG_RECORD_ATTRIBUTES>(out, attribute.key(), value, filter.value_length);
        }
    }
    AttributeWriter { out, filter }.event_name(event.name);
    fixed64::<11>(out, event.observed_time_unix_nano);
    bytes::<12>(out, event.name.as_bytes());
}

pub(super) fn attribute_value<const FIELD: u8>(
    out: &mut Vec<u8>,
    key: &str,
    value: &Value<'_>,
    limit: usize,
) {
    match value {
        Value::Int(number) | Value::Milliseconds(number) => int::<FIELD>(out, key, *number),
        Value::Flag(flag) => boolean::<FIELD>(out, key, *flag),
        Value::Texts(texts) => strings::<FIELD>(out, key, texts),
        Value::Address(endpoint @ (SocketEndpoint::Ip { .. } | SocketEndpoint::Vsock { .. })) => {
            string::<FIELD>(out, key, FormattedEndpoint::new(*endpoint).address());
        }
        Value::Text(_) | Value::Raw(_) | Value::Id(_) | Value::Address(SocketEndpoint::Unix(_)) => {
            any_string::<FIELD>(out, key, |out| write_text(out, value, limit));
        }
    }
}

/// Writes a value as text, for a display line or a string attribute.
fn write_text(out: &mut Vec<u8>, value: &Value<'_>, limit: usize) {
    match value {
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::Raw(raw) => escape_into(out, raw, limit),
        Value::Int(number) | Value::Id(number) => {
            out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
        }
        Value::Milliseconds(nanos) => milliseconds(out, *nanos),
        Value::Flag(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Value::Texts(texts) => out.extend_from_slice(texts.join(", ").as_bytes()),
        Value::Address(endpoint) => FormattedEndpoint::new(*endpoint).write(out, limit),
    }
}

impl<'a> Event<'a> {
    /// Adds an attribute, unless `value` is `None`.
    pub fn add(&mut self, attribute: Attribute, value: Option<Value<'a>>) {
        if let Some(value) = value {
            self.attributes.push((attribute, value));
        }
    }

    /// Adds the address and the port of `endpoint`, unless it is `None`. UNIX sockets have no port.
    pub fn add_endpoint(
        &mut self,
        address: Attribute,
        port: Attribute,
        endpoint: Option<SocketEndpoint<'a>>,
    ) {
        self.add(address, endpoint.map(Value::Address));
        self.add(port, endpoint.and_then(|endpoint| endpoint.port()).map(Value::Int));
    }
}
