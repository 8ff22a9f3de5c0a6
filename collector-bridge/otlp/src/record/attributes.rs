//! Writing attributes: `KeyValue` messages, in field 6 of a log record and in field 9 of a span.

use crate::{
    names,
    profile::{Attribute, Profile},
    record::{
        RecordUid,
        address::{Endpoint, Shown, unix_name},
    },
    text::escape_into,
    wire::{bytes, header, nested, uint, varint_len},
};

/// `LogRecord.attributes`
pub(super) const OF_RECORD: u8 = 6;
/// `Span.attributes`
pub(super) const OF_SPAN: u8 = 9;

/// Writes the attributes of a log record that the profile wants.
pub(super) struct Attributes<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) profile: &'a Profile,
}

impl Attributes<'_> {
    pub(super) fn text(&mut self, attribute: Attribute, value: &str) {
        self.bytes(attribute, value.as_bytes());
    }

    /// Bytes that are UTF-8 by construction.
    pub(super) fn bytes(&mut self, attribute: Attribute, value: &[u8]) {
        if self.profile.wants(attribute) {
            string::<OF_RECORD>(self.out, attribute.key(), value);
        }
    }

    /// Any bytes.
    pub(super) fn raw(&mut self, attribute: Attribute, value: &[u8]) {
        if self.profile.wants(attribute) {
            let limit = self.profile.value_length;
            any_string::<OF_RECORD>(self.out, attribute.key(), |out| escape_into(out, value, limit));
        }
    }

    /// A cookie: a decimal string, because some exceed a signed integer.
    pub(super) fn id(&mut self, attribute: Attribute, value: Option<u64>) {
        if let Some(value) = value {
            self.bytes(attribute, itoa::Buffer::new().format(value).as_bytes());
        }
    }

    pub(super) fn int(&mut self, attribute: Attribute, value: Option<u64>) {
        if let Some(value) = value
            && self.profile.wants(attribute)
        {
            int::<OF_RECORD>(self.out, attribute.key(), value);
        }
    }

    /// A boolean that is only sent when it is of interest.
    pub(super) fn flag(&mut self, attribute: Attribute, present: bool, value: bool) {
        if present && self.profile.wants(attribute) {
            boolean::<OF_RECORD>(self.out, attribute.key(), value);
        }
    }

    pub(super) fn endpoint(&mut self, address: Attribute, port: Attribute, endpoint: Option<&Shown<'_>>) {
        if let Some(shown) = endpoint {
            if self.profile.wants(address) {
                self.address(address, shown);
            }
            self.int(port, shown.endpoint.port());
        }
    }

    /// Also when the profile leaves it out, unless it was left out by name.
    pub(super) fn endpoint_always(
        &mut self,
        address: Attribute,
        port: Attribute,
        endpoint: Option<&Shown<'_>>,
    ) {
        if let Some(shown) = endpoint {
            if !self.profile.excludes(address) {
                self.address(address, shown);
            }
            if !self.profile.excludes(port)
                && let Some(number) = shown.endpoint.port()
            {
                int::<OF_RECORD>(self.out, port.key(), number);
            }
        }
    }

    pub(super) fn address(&mut self, attribute: Attribute, shown: &Shown<'_>) {
        match shown.endpoint {
            Endpoint::Unix(name) => {
                let limit = self.profile.value_length;
                any_string::<OF_RECORD>(self.out, attribute.key(), |out| unix_name(out, name, limit));
            }
            Endpoint::Ip { .. } | Endpoint::Vsock { .. } => {
                string::<OF_RECORD>(self.out, attribute.key(), shown.address());
            }
        }
    }

    /// The event's name again, if that is wanted.
    pub(super) fn event_name(&mut self, name: &str) {
        if self.profile.event_name_attribute {
            string::<OF_RECORD>(self.out, names::OTEL_EVENT_NAME, name.as_bytes());
        }
    }
}

/// `RecordUid`'s `Display`, without the formatting machinery.
pub(super) fn uid_text(uid: RecordUid) -> [u8; 34] {
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

/// A `KeyValue` whose value is a string.
pub(super) fn string<const FIELD: u8>(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let any_value = 1 + varint_len(value.len() as u64) + value.len();
    key_value::<FIELD>(out, key, any_value, |out| bytes::<1>(out, value));
}

/// A `KeyValue` whose value is an array of strings.
pub(super) fn strings<const FIELD: u8>(out: &mut Vec<u8>, key: &str, values: &[&str]) {
    nested::<FIELD>(out, |out| {
        bytes::<1>(out, key.as_bytes());
        // KeyValue.value, AnyValue.array_value, and its ArrayValue.values
        nested::<2>(out, |out| {
            nested::<5>(out, |out| {
                for value in values {
                    nested::<1>(out, |out| bytes::<1>(out, value.as_bytes()));
                }
            });
        });
    });
}

/// A `KeyValue` whose value is an integer; beyond `i64` it would be negative.
pub(super) fn int<const FIELD: u8>(out: &mut Vec<u8>, key: &str, value: u64) {
    key_value::<FIELD>(out, key, 1 + varint_len(value), |out| uint::<3>(out, value));
}

/// A `KeyValue` whose value is a boolean.
pub(super) fn boolean<const FIELD: u8>(out: &mut Vec<u8>, key: &str, value: bool) {
    key_value::<FIELD>(out, key, 2, |out| uint::<2>(out, u64::from(value)));
}

fn key_value<const FIELD: u8>(
    out: &mut Vec<u8>,
    key: &str,
    any_value: usize,
    value: impl FnOnce(&mut Vec<u8>),
) {
    let key_field = 1 + varint_len(key.len() as u64) + key.len();
    let value_field = 1 + varint_len(any_value as u64) + any_value;
    header::<FIELD>(out, key_field + value_field);
    bytes::<1>(out, key.as_bytes());
    header::<2>(out, any_value);
    value(out);
}

/// A `KeyValue` whose value is a string of a length that is only known afterwards.
pub(super) fn any_string<const FIELD: u8>(out: &mut Vec<u8>, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    nested::<FIELD>(out, |out| {
        bytes::<1>(out, key.as_bytes());
        nested::<2>(out, |out| nested::<1>(out, value));
    });
}
