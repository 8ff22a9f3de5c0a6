//! Counts every event once, by what became of it, and records what was lost.

pub mod gaps;
pub mod ledger;
