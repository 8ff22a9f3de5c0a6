//! The state of the agent: one snapshot, and its views: `/status`, the metrics, and the summary at the end of
//! a run.

pub(crate) mod admin;
pub(crate) mod memory;
pub(crate) mod metrics;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod summary;

mod cost;
