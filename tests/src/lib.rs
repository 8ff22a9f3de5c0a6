//! The harness of acceptd's end-to-end scenarios: a real agent, a real OTLP receiver, real connections.
//!
//! A scenario starts an [`agent::Agent`], does something that the kernel reports to the calling process
//! itself (an accept, a bind, a reset), and compares the records in the agent's [`inbox::Inbox`] with what
//! the kernel said ([`ground_truth::GroundTruth`], counters under /proc, other tools). To add one, write a
//! function in a file under `scenarios/` and list it in `scenarios.rs`. Run it natively with `cargo xtask
//! test`, and on other kernels with `cargo xtask vm` (tests/kernels.toml).
#![deny(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot continue panics with the reason")]

pub mod admin;
pub mod agent;
pub mod check;
pub mod client_maps;
pub mod clients;
pub mod cost;
pub mod ground_truth;
pub mod i386;
pub mod inbox;
pub mod metrics;
pub mod mounted;
pub mod netns;
pub mod process_context;
pub mod raw;
pub mod record;
pub mod registry;
pub mod runner;
pub mod scenario;
pub mod scenarios;
pub mod servers;
pub mod sk_lookup;
pub mod skipped;
pub mod stderr_log;
pub mod title;
pub mod tun_link;
pub mod uring;
pub mod wait;
