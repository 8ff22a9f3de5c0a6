//! acceptd's way from an event to a Collector, and the other end of the wire. No eBPF and no root.
//!
//! | step | items |
//! |---|---|
//! | encode an accept, another event or a span | [`encode_accept`], [`encode_event`], [`encode_span`] |
//! | describe the process of the event | [`Process`], [`Host`], [`EncodedResource`] |
//! | gather records into requests | [`BatchBuilder`], [`Batch`] |
//! | deliver requests: queue, spool, retry, split | [`Exporter`], [`ExporterConfig`] |
//! | account for every record | [`LedgerSnapshot`] |
//! | receive and print requests | [`receiver`], [`Printer`] |
//!
//! # Example
//! Encodes one event, and delivers it to the crate's own receiver:
//!
//! ```
//! use std::{
//!     collections::BTreeMap,
//!     net::TcpListener,
//!     sync::mpsc,
//!     time::{Duration, Instant},
//! };
//!
//! use acceptd_otlp::{
//!     Attribute, AttributeFilter, BatchBuilder, BatchLimits, DeclaredAttributes, EncodedResource, Event,
//!     Exporter, ExporterConfig, Host, Process, ProcessDetails, Push, Received, RecordUid, Signal, Target,
//!     TransportSettings, Value, encode_event, names, receiver, severity,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The Resource of the process. It is encoded once, and shared by all records of the process.
//! let host = Host { id: None, name: "web-1".to_owned(), arch: "amd64" };
//! let process = Process {
//!     pid: 812,
//!     creation_time: None,
//!     executable_name: b"nginx".to_vec(),
//!     executable_path: None,
//!     title: None,
//!     user_id: 33,
//!     real_user_id: None,
//!     owner: None,
//!     kernel_thread: false,
//!     container_id: None,
//!     pod_uid: None,
//!     unit: None,
//!     details: ProcessDetails::default(),
//! };
//! let declared = DeclaredAttributes { by_process: &BTreeMap::new(), by_operator: &[] };
//! let resource = EncodedResource::for_process(&host, &process, declared, 1024);
//!
//! // One event, and a batch with its record.
//! let mut event = Event {
//!     name: names::EVENT_ACCEPTD_LISTENER_OVERFLOW,
//!     time_unix_nano: 1_700_000_000_000_000_000,
//!     observed_time_unix_nano: 1_700_000_000_000_001_000,
//!     uid: RecordUid { epoch: 1, cpu: 0, sequence: 1 },
//!     severity: severity::ERROR,
//!     body: vec![Value::Text("nginx[812] lost 3 connections")],
//!     attributes: Vec::new(),
//! };
//! event.add(Attribute::OverflowCount, Some(Value::Int(3)));
//! let filter = AttributeFilter::new(false, &[], &[], false, 1024)?;
//! let mut batches = BatchBuilder::new(Signal::Logs, BatchLimits { max_records: 100, max_bytes: 1 << 20 });
//! let process_key = 812;
//! let pushed = batches.push(process_key, &resource, |out| encode_event(out, &event, &filter));
//! assert!(matches!(pushed, Push::Added));
//! let batch = batches.seal().ok_or("the batch is empty")?;
//!
//! // Deliver the batch to a receiver on a free port.
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! let (sender, received) = mpsc::channel();
//! let ledger = runtime.block_on(async {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let endpoint = listener.local_addr()?.to_string();
//!     let handler = move |request| sender.send(request).map_err(std::io::Error::other);
//!     tokio::spawn(receiver::serve(listener, handler, std::future::pending()));
//!     let exporter = Exporter::spawn(ExporterConfig {
//!         target: Target::Grpc(endpoint),
//!         settings: TransportSettings { timeout: Duration::from_secs(5), ..TransportSettings::default() },
//!         timeout: Duration::from_secs(5),
//!         retry_window: Duration::from_secs(60),
//!         backoff_initial: Duration::from_millis(100),
//!         backoff_max: Duration::from_secs(5),
//!         queue_max_bytes: 1 << 20,
//!         concurrency: 1,
//!         spool: None,
//!         sync_interval: Duration::from_secs(1),
//!     })?;
//!     exporter.push(batch);
//!     Ok::<_, Box<dyn std::error::Error>>(exporter.shutdown(Instant::now() + Duration::from_secs(10)).await)
//! })?;
//! assert_eq!(ledger.acknowledged, 1);
//! let Received::Logs(request) = received.recv()? else { return Err("not a request of logs".into()) };
//! let record = &request.resource_logs[0].scope_logs[0].log_records[0];
//! assert_eq!(record.event_name, "acceptd.listener.overflow");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod attribute_filter;
mod batch;
mod buffer_pool;
mod compression;
mod distro;
pub mod errno;
mod error_chain;
mod exporter;
mod failure_log;
mod ledger;
pub mod names;
mod print;
mod queue;
pub mod receiver;
mod record;
pub mod recorded;
mod resource;
pub mod retry;
mod route;
pub mod severity;
mod signal;
mod split;
pub mod text;
mod transport;
mod wire;
mod worker;

/// The spool's configuration and errors, as [`ExporterConfig`] and [`ExporterError`] use them.
pub use acceptd_spool::{Order, SpoolConfig, SpoolError, SyncPolicy};
pub use attribute_filter::{Attribute, AttributeFilter, UnknownAttribute};
pub use batch::{Batch, BatchBuilder, BatchLimits, Push};
pub use compression::Compression;
pub use distro::{DISTRO_NAME, VERSION};
pub use error_chain::error_chain;
pub use exporter::Exporter;
pub use ledger::{DropReason, LedgerSnapshot};
pub use print::{PrintFormat, Printer};
pub use receiver::Received;
pub use record::{
    Accept, Event, NetworkType, RecordUid, SocketEndpoint, Span, SpanKind, Syscall, TcpHandshake, Threshold,
    Transport, Value, encode_accept, encode_event, encode_span, network_type,
};
pub use resource::{DeclaredAttributes, EncodedResource, Host, MAX_RESOURCE_BYTES, Process, ProcessDetails};
pub use route::{ExporterConfig, ExporterError, PreparedRoute};
pub use signal::Signal;
pub use transport::{Target, Tls, TlsError, TransportError, TransportSettings, check_target};
