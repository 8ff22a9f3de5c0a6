//! What acceptd knows of each listener: its owner, its queue and its counts.

pub mod histogram;
pub mod series;
pub mod table;
