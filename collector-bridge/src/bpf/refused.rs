//! Reads and tidies the kernel's counts of connection attempts that full accept queues refused.

use acceptd_common::{RefusedAttempts, UnixTarget};
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::map::ignore_missing_key;

type TargetBytes = [u8; size_of::<UnixTarget>()];
type CountBytes = [u8; size_of::<RefusedAttempts>()];

/// The maps of refused attempts: in tier 1 by the inode number of the listener, which the survey reads, and
/// in tier 2 by the name of a UNIX socket.
pub struct RefusedCounts {
    by_listener: HashMap<MapData, u64, CountBytes>,
    by_name: HashMap<MapData, TargetBytes, u64>,
}

impl RefusedCounts {
    pub(super) fn new(
        by_listener: HashMap<MapData, u64, CountBytes>,
        by_name: HashMap<MapData, TargetBytes, u64>,
    ) -> Self {
        Self { by_listener, by_name }
    }

    /// The listeners with counts, and these.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn by_listener(&self) -> Result<Vec<(u64, RefusedAttempts)>, MapError> {
        let mut found = Vec::new();
        for entry in &self.by_listener {
            let (listener, counts) = entry?;
            found.extend(RefusedAttempts::read_from_bytes(&counts).ok().map(|counts| (listener, counts)));
        }
        Ok(found)
    }

    /// Evicts the counts of a listener that no longer exists, to make room.
    ///
    /// # Errors
    /// When the kernel refuses the removal. A listener without counts is no error.
    pub fn evict_listener(&mut self, listener: u64) -> Result<(), MapError> {
        ignore_missing_key(self.by_listener.remove(&listener))
    }

    /// Tier 2: how often the connects of each process to each UNIX socket were refused. Counts start when the
    /// programs are loaded.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn by_name(&self) -> Result<Vec<(UnixTarget, u64)>, MapError> {
        let mut found = Vec::new();
        for entry in &self.by_name {
            let (key, count) = entry?;
            found.extend(UnixTarget::read_from_bytes(&key).ok().map(|target| (target, count)));
        }
        Ok(found)
    }

    /// Evicts a count to make room. A connect that is refused at this moment may be lost with it.
    ///
    /// # Errors
    /// When the kernel refuses the removal. A count that does not exist is no error.
    pub fn evict_name(&mut self, target: &UnixTarget) -> Result<(), MapError> {
        let mut bytes: TargetBytes = [0; _];
        bytes.copy_from_slice(target.as_bytes());
        ignore_missing_key(self.by_name.remove(&bytes))
    }
}
