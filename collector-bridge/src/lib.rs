//! acceptd: every `accept()` on a host as an OpenTelemetry event.
//!
//! The modules in the order in which an event meets them; each imports only modules that stand before it in
//! this list:
//! - `clock`: the kernel's boot clock as wall clock.
//! - [`config`]: the configuration: file, environment, flags.
//! - [`bpf`]: the kernel side: loads the programs, reads their ring buffer and maps, decodes samples.
//! - [`identity`]: the process behind a sample, as a Resource.
//! - `listener`: the table of the host's listeners, and the series of their metrics.
//! - `accounting`: the ledger of every event, and reports of losses.
//! - [`mapping`]: from samples to records, events and spans.
//! - [`pipeline`]: the drain thread, from the ring to the exporters of `acceptd-otlp` (batch, queue, send,
//!   retry).
//! - `health`: status, metrics and summary of the agent.
//! - `preflight`: tests whether this host meets the agent's needs (`acceptd check`).
//! - [`cmd`]: the command line, and the life of the agent (`acceptd run`).
//!
//! The public modules are for the binary, the suites and the fuzz targets; ARCHITECTURE.md has the whole
//! path.
#![deny(unsafe_code)]

pub mod bpf;
pub mod cmd;
pub mod config;
pub mod identity;
pub mod mapping;
pub mod pipeline;

mod accounting;
mod clock;
mod health;
mod listener;
mod preflight;
