//! The state of each listener: its owner, its accept queue, and what is counted of it for metrics.

pub(crate) mod histogram;
pub(crate) mod series;
pub(crate) mod table;
