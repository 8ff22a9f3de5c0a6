//! Every event but the accept: rarer, so a list of attributes and not a struct of its own for each.

use crate::{
    profile::{Attribute, Profile},
    record::{
        RecordUid,
        address::{Endpoint, Shown, milliseconds},
        attributes::{Attributes, OF_RECORD, any_string, boolean, int, string, strings, uid_text},
    },
    text::escape_into,
    wire::{bytes, fixed64, nested, uint},
};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// `event_name`
    pub name: &'static str,
    /// When it happened, nanoseconds since the Unix epoch.
    pub time_unix_nano: u64,
    /// When user space knew it, likewise.
    pub observed_time_unix_nano: u64,
    /// The record's id.
    pub uid: RecordUid,
    /// `severity_number`
    pub severity: u8,
    /// The display line, piece by piece.
    pub body: Vec<Value<'a>>,
    /// The attributes, each at most once.
    pub attributes: Vec<(Attribute, Value<'a>)>,
}

/// A value of an attribute, or a piece of a display line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text of our own, with nothing to escape.
    Text(&'static str),
    /// Any bytes.
    Raw(&'a [u8]),
    /// A number; beyond `i64` it would be negative.
    Int(u64),
    /// A cookie: a decimal string, because some exceed a signed integer.
    Id(u64),
    /// A truth value.
    Flag(bool),
    /// Several texts of our own; in a display line with commas between them.
    Texts(&'a [&'static str]),
    /// Nanoseconds, in a display line shown as milliseconds with one decimal place.
    Milliseconds(u64),
    /// The address of an end, in a display line with its port.
    Address(Endpoint<'a>),
}

/// Appends one `LogRecord` message: its fields, without tag and length of its own.
pub fn encode_event(out: &mut Vec<u8>, event: &Event<'_>, profile: &Profile) {
    fixed64::<1>(out, event.time_unix_nano);
    uint::<2>(out, u64::from(event.severity));
    nested::<5>(out, |out| {
        nested::<1>(out, |out| {
            for piece in &event.body {
                write(out, piece, profile.value_length / 2);
            }
        });
    });
    if !profile.excludes(Attribute::Uid) {
        string::<OF_RECORD>(out, Attribute::Uid.key(), &uid_text(event.uid));
    }
    for (attribute, value) in &event.attributes {
        // What serves debugging follows the profile; what makes the event does not.
        let sent =
            if attribute.is_context() { profile.wants(*attribute) } else { !profile.excludes(*attribute) };
        if sent {
            attribute_value::<OF_RECORD>(out, attribute.key(), value, profile.value_length);
        }
    }
    Attributes { out, profile }.event_name(event.name);
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
        Value::Address(endpoint @ (Endpoint::Ip { .. } | Endpoint::Vsock { .. })) => {
            string::<FIELD>(out, key, Shown::of(*endpoint).address());
        }
        Value::Text(_) | Value::Raw(_) | Value::Id(_) | Value::Address(Endpoint::Unix(_)) => {
            any_string::<FIELD>(out, key, |out| write(out, value, limit));
        }
    }
}

fn write(out: &mut Vec<u8>, value: &Value<'_>, limit: usize) {
    match value {
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::Raw(raw) => escape_into(out, raw, limit),
        Value::Int(number) | Value::Id(number) => {
            out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
        }
        Value::Milliseconds(nanos) => milliseconds(out, *nanos),
        Value::Flag(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Value::Texts(texts) => out.extend_from_slice(texts.join(", ").as_bytes()),
        Value::Address(endpoint) => Shown::of(*endpoint).write(out, limit),
    }
}

impl<'a> Event<'a> {
    /// Adds an attribute if there is a value.
    pub fn add(&mut self, attribute: Attribute, value: Option<Value<'a>>) {
        if let Some(value) = value {
            self.attributes.push((attribute, value));
        }
    }

    /// Adds an address and its port, where there are any.
    pub fn add_endpoint(&mut self, address: Attribute, port: Attribute, endpoint: Option<Endpoint<'a>>) {
        self.add(address, endpoint.map(Value::Address));
        self.add(port, endpoint.and_then(|endpoint| endpoint.port()).map(Value::Int));
    }
}
