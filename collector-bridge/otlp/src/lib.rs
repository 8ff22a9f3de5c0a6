//! acceptd's way from a record to a Collector: what it is called ([`record`], [`resource`]), how it is gathered
//! ([`batch`]), delivered ([`exporter`]) and accounted for ([`ledger`]); and the other end of the wire
//! ([`receiver`], [`print`]).
//!
//! No eBPF, no root: everything here is pure or speaks gRPC.
#![forbid(unsafe_code)]

mod backlog;
pub mod batch;
pub mod causes;
mod complaint;
mod compression;
mod delivery;
pub mod errno;
pub mod exporter;
pub mod ledger;
pub mod names;
pub mod print;
pub mod profile;

pub mod receiver;
pub mod record;
pub mod recorded;
mod recycle;
pub mod resource;
pub mod retry;
pub mod severity;
mod signal;
mod split;
pub mod text;
mod transport;
mod wire;

pub use acceptd_spool::{Order, SpoolConfig, SpoolError, SyncPolicy};
pub use batch::{Batch, BatchBuilder, BatchLimits, Push};
pub use compression::Compression;
pub use exporter::{Exporter, ExporterConfig, ExporterError, Prepared};
pub use ledger::{DropReason, LedgerSnapshot};
pub use print::{Output, Printer};
pub use profile::{Attribute, Profile, UnknownAttribute};
pub use receiver::Received;
pub use record::{
    Accept, Endpoint, Event, Handshake, NetworkType, RecordUid, Span, SpanKind, Syscall, Threshold,
    Transport, Value, encode_accept, encode_event, encode_span, network_type,
};
pub use resource::{Details, EncodedResource, Host, Process, Said};
pub use signal::Signal;
pub use transport::{Settings, Target, Tls, TlsError, TransportError, probe};

/// `telemetry.distro.name`, and the name of the instrumentation scope.
pub const DISTRO_NAME: &str = "acceptd";

/// `telemetry.distro.version`, and the version of the scope.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What requests are sent by.
const USER_AGENT_NAME: &str = concat!("acceptd/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust");
