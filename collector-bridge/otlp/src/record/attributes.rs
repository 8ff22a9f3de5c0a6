//! Writes attributes: `KeyValue` messages, in field 6 of a log record and in field 9 of a span.

use super::address::{FormattedEndpoint, SocketEndpoint, unix_name};
use crate::{
    attribute_filter::{Attribute, AttributeFilter},
    names,
    text::escape_into,
    wire::{bytes, header, nested, uint, varint_len},
};

/// Field number of `LogRecord.attributes`.
pub(super) const LOG_RECORD_ATTRIBUTES: u8 = 6;
/// Field number of `Span.attributes`.
pub(super) const SPAN_ATTRIBUTES: u8 = 9;

/// Writes those attributes of a log record that the filter sends.
pub(super) struct AttributeWriter<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) filter: &'a AttributeFilter,
}

impl AttributeWriter<'_> {
    pub(super) fn text(&mut self, attribute: Attribute, value: &str) {
        self.bytes(attribute, value.as_bytes());
    }

    /// A string; `value` must be UTF-8.
    pub(super) fn bytes(&mut self, attribute: Attribute, value: &[u8]) {
        if self.filter.includes(attribute) {
            string::<LOG_RECORD_ATTRIBUTES>(self.out, attribute.key(), value);
        }
    }

    /// A string of any bytes: escaped, and cut at the filter's value length.
    pub(super) fn raw(&mut self, attribute: Attribute, value: &[u8]) {
        if self.filter.includes(attribute) {
            let limit = self.filter.value_length;
            any_string::<LOG_RECORD_ATTRIBUTES>(self.out, attribute.key(), |out| {
                escape_into(out, value, limit);
            });
        }
    }

    /// A socket cookie, as a decimal string: OTLP integers are signed, and a cookie may exceed them.
    pub(super) fn id(&mut self, attribute: Attribute, value: Option<u64>) {
        if let Some(value) = value {
            self.bytes(attribute, itoa::Buffer::new().format(value).as_bytes());
        }
    }

    pub(super) fn int(&mut self, attribute: Attribute, value: Option<u64>) {
        if let Some(value) = value
            && self.filter.includes(attribute)
        {
            int::<LOG_RECORD_ATTRIBUTES>(self.out, attribute.key(), value);
        }
    }

    /// A number that is sent though the profile omits the attribute, unless that is excluded by name.
    pub(super) fn int_beyond_profile(&mut self, attribute: Attribute, value: Option<u64>) {
        if let Some(value) = value
            && !self.filter.includes(attribute)
            && !self.filter.excludes(attribute)
        {
            int::<LOG_RECORD_ATTRIBUTES>(self.out, attribute.key(), value);
        }
    }

    /// A boolean that is only sent if `present`.
    pub(super) fn flag(&mut self, attribute: Attribute, present: bool, value: bool) {
        if present && self.filter.includes(attribute) {
            boolean::<LOG_RECORD_ATTRIBUTES>(self.out, attribute.key(), value);
        }
    }

    pub(super) fn endpoint(
        &mut self,
        address: Attribute,
        port: Attribute,
        endpoint: Option<&FormattedEndpoint<'_>>,
    ) {
        if let Some(shown) = endpoint {
            if self.filter.includes(address) {
                self.address(address, shown);
            }
            self.int(port, shown.endpoint.port());
        }
    }

    /// Like [`Self::endpoint`], but also for attributes outside the filter's set; those that are excluded by
    /// name are still not sent.
    pub(super) fn endpoint_always(
        &mut self,
        address: Attribute,
        port: Attribute,
        endpoint: Option<&FormattedEndpoint<'_>>,
    ) {
        if let Some(shown) = endpoint {
            if !self.filter.excludes(address) {
                self.address(address, shown);
            }
            self.int(port, shown.endpoint.port());
            self.int_beyond_profile(port, shown.endpoint.port());
        }
    }

    pub(super) fn address(&mut self, attribute: Attribute, shown: &FormattedEndpoint<'_>) {
        match shown.endpoint {
            SocketEndpoint::Unix(name) => {
                let limit = self.filter.value_length;
                any_string::<LOG_RECORD_ATTRIBUTES>(self.out, attribute.key(), |out| {
                    unix_name(out, name, limit);
                });
            }
            SocketEndpoint::Ip { .. } | SocketEndpoint::Vsock { .. } => {
                string::<LOG_RECORD_ATTRIBUTES>(self.out, attribute.key(), shown.address());
            }
        }
    }

    /// The event name as an attribute, if the filter asks for it.
    pub(super) fn event_name(&mut self, name: &str) {
        if self.filter.event_name_attribute {
            string::<LOG_RECORD_ATTRIBUTES>(self.out, names::OTEL_EVENT_NAME, name.as_bytes());
        }
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

/// A `KeyValue` whose value is an integer. OTLP integers are signed: a receiver reads a value above
/// `i64::MAX` as negative.
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

/// A `KeyValue` whose value is a string that `value` writes, and whose length is only known afterwards.
pub(super) fn any_string<const FIELD: u8>(out: &mut Vec<u8>, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    nested::<FIELD>(out, |out| {
        bytes::<1>(out, key.as_bytes());
        nested::<2>(out, |out| nested::<1>(out, value));
    });
}
