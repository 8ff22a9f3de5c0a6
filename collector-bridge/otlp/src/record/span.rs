//! The spans of a connection's trace.

use std::fmt;

use super::{
    address::SocketEndpoint,
    attributes::SPAN_ATTRIBUTES,
    event::{Value, attribute_value},
};
use crate::{
    attribute_filter::{Attribute, AttributeFilter},
    wire::{bytes, fixed32, fixed64, nested, uint},
};

/// W3C trace flags: sampled (0x1), and the low 56 bits of the trace id are random (0x2).
const TRACE_FLAGS: u32 = 0x3;
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: it is known whether the parent is remote. The bit for "remote"
/// (0x200) is not set.
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

/// One span of a connection's trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span<'a> {
    /// The id of the connection's trace.
    pub trace_id: [u8; 16],
    /// The id of this span.
    pub span_id: [u8; 8],
    /// The id of the parent span; `None` for the root span.
    pub parent: Option<[u8; 8]>,
    /// The name of the span, one of those in [`crate::names::SPANS`].
    pub name: &'static str,
    /// The kind of the span.
    pub kind: SpanKind,
    /// Start time, in nanoseconds since the Unix epoch.
    pub start_unix_nano: u64,
    /// End time, in nanoseconds since the Unix epoch. An end before the start is encoded as the start.
    pub end_unix_nano: u64,
    /// The threshold by which the trace was sampled; `None` if the trace was kept for another reason.
    pub threshold: Option<Threshold>,
    /// Whether the status of the span is an error.
    pub failed: bool,
    /// The attributes, each at most once.
    pub attributes: Vec<(Attribute, Value<'a>)>,
}

/// The sampling threshold, a number of 56 bits: traces whose randomness is below it are not sampled
/// (<https://opentelemetry.io/docs/specs/otel/trace/tracestate-handling/>). `Display` writes the value of
/// `th`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold(pub u64);

impl fmt::Display for Threshold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:014x}", self.0);
        let significant = digits.trim_end_matches('0');
        out.write_str(if significant.is_empty() { "0" } else { significant })
    }
}

/// Appends the fields of one `Span` message, without the tag and length of the message itself.
pub fn encode_span(out: &mut Vec<u8>, span: &Span<'_>, filter: &AttributeFilter) {
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
        if !filter.excludes(*attribute) {
            attribute_value::<SPAN_ATTRIBUTES>(out, attribute.key(), value, filter.value_length);
        }
    }
    if span.failed {
        // Status.code: STATUS_CODE_ERROR
        nested::<15>(out, |out| uint::<3>(out, 2));
    }
    fixed32::<16>(out, if span.parent.is_some() { TRACE_FLAGS | PARENT_IS_LOCAL } else { TRACE_FLAGS });
}

impl<'a> Span<'a> {
    /// Adds an attribute, unless `value` is `None`.
    pub fn add(&mut self, attribute: Attribute, value: Option<Value<'a>>) {
        self.attributes.extend(value.map(|value| (attribute, value)));
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
