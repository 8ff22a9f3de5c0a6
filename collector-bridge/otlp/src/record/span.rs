//! A span of a connection.

use std::fmt;

use crate::{
    profile::{Attribute, Profile},
    record::{
        address::Endpoint,
        attributes::OF_SPAN,
        event::{Value, attribute_value},
    },
    wire::{bytes, fixed32, fixed64, nested, uint},
};

/// `W3C` trace flags: sampled, and the id's low 56 bits are random.
const TRACE_FLAGS: u32 = 0x3;
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: that the parent is remote is known, and it is not.
const PARENT_IS_LOCAL: u32 = 0x100;

/// `Span.kind`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SpanKind {
    /// `SPAN_KIND_INTERNAL`
    Internal = 1,
    /// `SPAN_KIND_SERVER`
    Server = 2,
}

/// A span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span<'a> {
    /// Of the connection.
    pub trace_id: [u8; 16],
    /// Its own id.
    pub span_id: [u8; 8],
    /// The span that it is a part of; none for the root.
    pub parent: Option<[u8; 8]>,
    /// One of a few.
    pub name: &'static str,
    /// Which kind.
    pub kind: SpanKind,
    /// Nanoseconds since the Unix epoch.
    pub start_unix_nano: u64,
    /// Likewise; never before the start.
    pub end_unix_nano: u64,
    /// The threshold that the trace was sampled by; none when it was kept for another reason.
    pub threshold: Option<Threshold>,
    /// Whether it ended with an error.
    pub failed: bool,
    /// The attributes, each at most once.
    pub attributes: Vec<(Attribute, Value<'a>)>,
}

/// Traces whose randomness is below this are left out: a number of 56 bits
/// (<https://opentelemetry.io/docs/specs/otel/trace/tracestate-handling/>). `Display` is the value of `th`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold(pub u64);

impl fmt::Display for Threshold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:014x}", self.0);
        let significant = digits.trim_end_matches('0');
        out.write_str(if significant.is_empty() { "0" } else { significant })
    }
}

/// Appends one `Span` message: its fields, without tag and length of its own.
pub fn encode_span(out: &mut Vec<u8>, span: &Span<'_>, profile: &Profile) {
    bytes::<1>(out, &span.trace_id);
    bytes::<2>(out, &span.span_id);
    if let Some(threshold) = span.threshold {
        bytes::<3>(out, format!("ot=th:{threshold}").as_bytes());
    }
    if let Some(parent) = &span.parent {
        bytes::<4>(out, parent);
    }
    bytes::<5>(out, span.name.as_bytes());
    uint::<6>(out, span.kind as u64);
    fixed64::<7>(out, span.start_unix_nano);
    fixed64::<8>(out, span.end_unix_nano.max(span.start_unix_nano));
    for (attribute, value) in &span.attributes {
        if !profile.excludes(*attribute) {
            attribute_value::<OF_SPAN>(out, attribute.key(), value, profile.value_length);
        }
    }
    if span.failed {
        // Status.code: STATUS_CODE_ERROR
        nested::<15>(out, |out| uint::<3>(out, 2));
    }
    fixed32::<16>(out, if span.parent.is_some() { TRACE_FLAGS | PARENT_IS_LOCAL } else { TRACE_FLAGS });
}

impl<'a> Span<'a> {
    /// Adds an attribute if there is a value.
    pub fn add(&mut self, attribute: Attribute, value: Option<Value<'a>>) {
        self.attributes.extend(value.map(|value| (attribute, value)));
    }

    /// Adds an address and its port, where there are any.
    pub fn add_endpoint(&mut self, address: Attribute, port: Attribute, endpoint: Option<Endpoint<'a>>) {
        self.add(address, endpoint.map(Value::Address));
        self.add(port, endpoint.and_then(|endpoint| endpoint.port()).map(Value::Int));
    }
}

#[cfg(test)]
mod tests {
    use super::Threshold;

    #[test]
    fn a_threshold_has_no_zeros_at_its_end() {
        for (threshold, text) in
            [(0, "0"), (1 << 55, "8"), (0xfd_70a3_d70a_3d71, "fd70a3d70a3d71"), (0xc0 << 48, "c")]
        {
            assert_eq!(Threshold(threshold).to_string(), text);
        }
    }
}
