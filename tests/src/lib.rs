//! The harness of acceptd's scenarios: a real agent, a real receiver, real connections, and the truth as the
//! kernel tells it to the accepting process.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so and fails")]

pub mod agent;
pub mod record;
pub mod truth;
pub mod wait;
