//! How long the suite e2e waits.

use std::time::Duration;

/// For records, after the last connection.
pub(crate) const ARRIVAL: Duration = Duration::from_secs(30);

/// For a server to be ready.
pub(crate) const READY: Duration = Duration::from_secs(30);

/// For a program to stop after SIGTERM.
pub(crate) const STOP: Duration = Duration::from_secs(15);
