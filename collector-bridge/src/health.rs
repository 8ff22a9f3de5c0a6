//! The state of the agent: one snapshot a second, and its views: status, metrics, summary.

pub mod admin;
pub mod cost;
pub mod memory;
pub mod metrics;
pub mod snapshot;
pub mod status;
pub mod summary;
