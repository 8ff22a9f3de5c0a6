//! Reads the kernel's statistics of connections, by listener: how many are open, and how long the closed ones
//! lasted.

use acceptd_common::ConnectionStats;
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::FromBytes as _;

use super::map::ignore_missing_key;

type ValueBytes = [u8; size_of::<ConnectionStats>()];

/// The map of connection statistics, by the inode number of the listener.
pub struct ConnectionCounts(HashMap<MapData, u64, ValueBytes>);

impl ConnectionCounts {
    pub(super) fn new(map: HashMap<MapData, u64, ValueBytes>) -> Self {
        Self(map)
    }

    /// The statistics of every listener at this moment. Counts start when the programs are loaded.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn read(&self) -> Result<Vec<(u64, ConnectionStats)>, MapError> {
        let mut found = Vec::new();
        for entry in &self.0 {
            let (listener, value) = entry?;
            found.extend(ConnectionStats::read_from_bytes(&value).ok().map(|stats| (listener, stats)));
        }
        Ok(found)
    }

    /// Evicts the statistics of a listener that no longer exists, to make room.
    ///
    /// # Errors
    /// When the kernel refuses the removal. A listener without statistics is no error.
    pub fn evict(&mut self, listener: u64) -> Result<(), MapError> {
        ignore_missing_key(self.0.remove(&listener))
    }
}
