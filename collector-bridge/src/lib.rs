//! acceptd: every `accept()` on a host as an OpenTelemetry event.
//!
//! One event, in order: `bpf` (ring) → `drain` (the thread that owns the rest of the path) → `event` (decode) →
//! `identity` (whose) → `mapping` (what it is called) → `output` → `acceptd-otlp` (batch, queue, send, retry). ARCHITECTURE.md has the whole path.
#![deny(unsafe_code)]

pub mod accounting;
pub mod bpf;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod health;
pub mod identity;
pub mod listener;
pub mod mapping;
pub mod pipeline;
pub mod preflight;
