//! The encoding of log records and spans as protobuf bytes: the accept ([`accept`]), every other event
//! ([`event`]), and the spans of a connection's trace ([`span`]).
//!
//! The encoders are written by hand, because with prost the encoding would be the largest part of a record's
//! cost (docs/results has the figures). Every test decodes their output with opentelemetry-proto.

mod accept;
mod address;
mod attributes;
mod event;
mod network;
mod span;
mod uid;

pub use accept::{Accept, TcpHandshake, encode_accept};
pub use address::SocketEndpoint;
pub use event::{Event, Value, encode_event};
pub use network::{NetworkType, Syscall, Transport, network_type};
pub use span::{Span, SpanKind, Threshold, encode_span};
pub use uid::RecordUid;
