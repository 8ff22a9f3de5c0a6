//! The wall clock for the programs, which have none: each connection with a trace keeps the anchor of its accept.

use aya::maps::{Array, MapData, MapError};

/// The map.
pub struct Anchor(Array<MapData, u64>);

impl Anchor {
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self(map)
    }

    /// Nanoseconds since the Unix epoch at which `CLOCK_BOOTTIME` was 0.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn set(&mut self, unix_nanos: u64) -> Result<(), MapError> {
        self.0.set(0, unix_nanos, 0)
    }
}
