//! acceptd: every `accept()` on a host as an OpenTelemetry event.
//!
//! One event, in order: `bpf` (ring) → `event` (decode) → `identity` (whose) → `mapping` (what it is called) →
//! `pipeline` (batch) → `acceptd-otlp` (queue, send, retry). ARCHITECTURE.md has the whole path.
#![forbid(unsafe_code)]

pub mod bpf;
