//! The kernel's counts of open connections, and of how long they were.

use acceptd_common::Lives;
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::FromBytes as _;

use super::gone;

type Value = [u8; size_of::<Lives>()];

/// The map of lives, by inode of the listener.
pub struct LivesCounts(HashMap<MapData, u64, Value>);

impl LivesCounts {
    pub(super) fn new(map: HashMap<MapData, u64, Value>) -> Self {
        Self(map)
    }

    /// Every count of this moment, since the programs were loaded.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn read(&self) -> Result<Vec<(u64, Lives)>, MapError> {
        let mut found = Vec::new();
        for entry in &self.0 {
            let (listener, value) = entry?;
            found.extend(Lives::read_from_bytes(&value).ok().map(|lives| (listener, lives)));
        }
        Ok(found)
    }

    /// Makes room: forgets a listener that is not there any more.
    ///
    /// # Errors
    /// When the kernel refuses; not when there is no such count.
    pub fn forget(&mut self, listener: u64) -> Result<(), MapError> {
        gone(self.0.remove(&listener))
    }
}
