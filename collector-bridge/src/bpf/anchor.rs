//! Gives the eBPF programs the wall clock, which they cannot read themselves.

use aya::maps::{Array, MapData, MapError};

/// The map with the anchor: the wall-clock time at which `CLOCK_BOOTTIME` was 0.
///
/// The programs copy the anchor into each traced connection at its accept, so that all spans of one trace use
/// the same anchor even when the wall clock is stepped in between.
pub struct ClockAnchor(Array<MapData, u64>);

impl ClockAnchor {
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self(map)
    }

    /// Sets the anchor: nanoseconds since the Unix epoch at which `CLOCK_BOOTTIME` was 0.
    ///
    /// # Errors
    /// When the kernel refuses the update.
    pub fn set(&mut self, unix_nanos: u64) -> Result<(), MapError> {
        self.0.set(0, &unix_nanos, 0)
    }
}
