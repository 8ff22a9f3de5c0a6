//! The harness of acceptd's scenarios: a real agent, a real receiver, real connections, and the truth as the
//! kernel tells it to the accepting process.
#![deny(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so and fails")]

pub mod agent;
pub mod clients;
pub mod context;
pub mod cost;
pub mod i386;
pub mod metrics;
pub mod mounted;
pub mod raw;
pub mod record;
pub mod registry;
pub mod runner;
pub mod scenarios;
pub mod truth;
pub mod uring;
pub mod wait;
pub mod wire;
