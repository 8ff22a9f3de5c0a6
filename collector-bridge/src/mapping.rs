//! Turns samples into records: gives the kernel's numbers their OpenTelemetry names. Pure functions; no I/O.

pub(crate) mod accept;
pub(crate) mod agent;
mod context;
pub(crate) mod endpoint;
pub mod ids;
pub(crate) mod listener;
pub mod presence;
pub(crate) mod socket_call;
pub(crate) mod span;

pub(crate) use context::RecordContext;
