//! The kernel's counts of failed accepts.

use acceptd_common::{FailureKey, Failures};
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::gone;

type Key = [u8; size_of::<FailureKey>()];
type Value = [u8; size_of::<Failures>()];

/// The map of failures.
pub struct FailureCounts(HashMap<MapData, Key, Value>);

impl FailureCounts {
    pub(super) fn new(map: HashMap<MapData, Key, Value>) -> Self {
        Self(map)
    }

    /// Every count of this moment, since the programs were loaded.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn read(&self) -> Result<Vec<(FailureKey, Failures)>, MapError> {
        let mut found = Vec::new();
        for entry in &self.0 {
            let (key, value) = entry?;
            if let (Ok(key), Ok(value)) =
                (FailureKey::read_from_bytes(&key), Failures::read_from_bytes(&value))
            {
                // Until its first failure is described, nothing is known of it.
                if value.task.tgid != 0 {
                    found.push((key, value));
                }
            }
        }
        Ok(found)
    }

    /// Makes room: forgets a count. A failure that comes at this moment may be forgotten with it.
    ///
    /// # Errors
    /// When the kernel refuses; not when there is no such count.
    pub fn forget(&mut self, key: &FailureKey) -> Result<(), MapError> {
        let mut bytes = Key::default();
        bytes.copy_from_slice(key.as_bytes());
        gone(self.0.remove(&bytes))
    }
}
