//! `severity_number` of the log data model.

/// As it should be.
pub const INFO: u8 = 9;

/// Something did not come about.
pub const WARN: u8 = 13;

/// Something is lost, or the process or the host is out of something.
pub const ERROR: u8 = 17;
