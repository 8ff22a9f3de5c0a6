//! Why acceptd works on this host, works in part, or does not work: `gather` collects the facts once,
//! `verdict` judges them without I/O, and `report` shows the verdicts with their remedies.

mod canary;
pub(crate) mod facts;
pub(crate) mod gather;
mod report;
#[cfg(test)]
mod troubleshooting;
mod verdict;
pub(crate) mod verify;

pub(crate) use facts::Facts;
pub(crate) use report::Report;
pub(crate) use verdict::{Item, Verdict, judge};
