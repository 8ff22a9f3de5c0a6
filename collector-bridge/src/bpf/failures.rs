//! Reads the kernel's counts of failed accepts, and evicts those that are no longer needed.

use acceptd_common::{FailureKey, FailureStats};
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::map::ignore_missing_key;

type KeyBytes = [u8; size_of::<FailureKey>()];
type ValueBytes = [u8; size_of::<FailureStats>()];

/// The map of failed accepts, by listener, process and errno.
pub struct FailureCounts(HashMap<MapData, KeyBytes, ValueBytes>);

impl FailureCounts {
    pub(super) fn new(map: HashMap<MapData, KeyBytes, ValueBytes>) -> Self {
        Self(map)
    }

    /// Every count at this moment. Counts start when the programs are loaded.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn read(&self) -> Result<Vec<(FailureKey, FailureStats)>, MapError> {
        let mut found = Vec::new();
        for entry in &self.0 {
            let (key, value) = entry?;
            if let (Ok(key), Ok(value)) =
                (FailureKey::read_from_bytes(&key), FailureStats::read_from_bytes(&value))
            {
                // The program has inserted the entry but not yet described the first failure: skip the entry
                // this time.
                if value.task.tgid != 0 {
                    found.push((key, value));
                }
            }
        }
        Ok(found)
    }

    /// Evicts a count to make room. A failure that is counted at this moment may be lost with it.
    ///
    /// # Errors
    /// When the kernel refuses the removal. A count that does not exist is no error.
    pub fn evict(&mut self, key: &FailureKey) -> Result<(), MapError> {
        let mut bytes = KeyBytes::default();
        bytes.copy_from_slice(key.as_bytes());
        ignore_missing_key(self.0.remove(&bytes))
    }
}
