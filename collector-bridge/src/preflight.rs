//! Why acceptd works on this host, works in part, or does not: facts are gathered once ([`gather`]), what they mean is
//! decided without I/O ([`verdict`]), and said with the remedy ([`report`]).

pub mod canary;
pub mod facts;
pub mod gather;
pub mod heard;
pub mod report;
pub mod verdict;

pub use facts::Facts;
pub use report::Report;
pub use verdict::{Item, Verdict, items};
