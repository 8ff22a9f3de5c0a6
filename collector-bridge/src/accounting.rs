//! Accounting: counts every event once, by its outcome (`ledger`), and reports losses (`gaps`).

pub(crate) mod gaps;
pub(crate) mod ledger;
