//! The path of an event in user space, all of it on one thread: ring buffer → decode → record → batch →
//! exporters.
//!
//! In the order of the path: `drain` reads the ring, `recorder` turns each sample into records and spans,
//! `batcher` gathers them into requests, `outputs` hands the requests to the exporters and the console.

pub(crate) mod drain;
pub(crate) mod handle;

mod batcher;
mod outputs;
mod overload;
mod recorder;
mod settings;

pub(crate) use outputs::{Console, ConsoleCounts, NamedLedger};
pub use outputs::{NamedExporter, Outputs};
pub use recorder::{ListenerMonitor, Recorder, RecorderDeps, SpanOutput};
pub use settings::ReloadableSettings;

pub use crate::{accounting::ledger::DrainCounts, mapping::span::SpanStyle};
