//! One helper for maps that the eBPF programs and user space change at the same time.

use aya::maps::MapError;

/// The result of a removal, with "no such key" taken as success: an eBPF program, or an earlier sweep, may
/// have removed the key first.
pub(super) fn ignore_missing_key(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}
