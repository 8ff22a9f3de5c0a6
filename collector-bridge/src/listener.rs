//! The state of each listener: its owner, its accept queue, and what is counted of it for metrics.

pub(crate) mod generated;
pub(crate) mod histogram;
pub(crate) mod overflow;
pub(crate) mod owner;
pub(crate) mod refused;
pub(crate) mod search;
pub(crate) mod series;
pub(crate) mod table;
