//! acceptd: every `accept()` on a host as an OpenTelemetry event.
//!
//! One event, in order: `bpf` (ring) → `drain` (the thread that owns the rest of the path) → `event` (decode) →
//! `identity` (whose) → `mapping` (what it is called) → `output` → `acceptd-otlp` (batch, queue, send, retry). ARCHITECTURE.md has the whole path.
#![deny(unsafe_code)]

pub mod admin;
pub mod bpf;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod cost;
pub mod destination;
pub mod drain;
pub mod event;
pub mod filter;
pub mod gaps;
pub mod host;
pub mod identity;
pub mod ids;
pub mod ledger;
pub mod lifetime;
pub mod listeners;
pub mod logging;
pub mod mapping;
pub mod memory;
pub mod metrics;
pub mod output;
pub mod overload;
pub mod preflight;
pub mod presence;
pub mod recorder;
pub mod series;
pub mod spans;
pub mod status;
pub mod stop;
pub mod summary;
pub mod vitals;
