//! The values of `severity_number` that acceptd sends, from the log data model of OpenTelemetry.

/// INFO: normal operation.
pub const INFO: u8 = 9;

/// WARN: an operation failed.
pub const WARN: u8 = 13;

/// ERROR: data or connections were lost, or the process or the host ran out of a resource.
pub const ERROR: u8 = 17;
