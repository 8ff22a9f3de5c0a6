//! Clients of connections within the host that nobody asked for any more: the programs forget them with the accept, or with either
//! end. An end that the kernel did not show leaves one over.

use std::{collections::HashSet, time::Duration};

use acceptd_common::Client;
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::FromBytes as _;

use super::gone;
use crate::clock;

/// A connection that waits for longer has a client that nobody is told of.
const LONGEST: Duration = Duration::from_mins(5);

/// Entries from which on it is worth a look.
const MANY: usize = 1024;

type Value = [u8; size_of::<Client>()];
/// `struct Tuple` (ebpf/src/sock.rs).
type Tuple = [u8; 40];

/// The maps: by the cookie of the client's socket, and by addresses.
pub struct Peers {
    connecting: HashMap<MapData, u64, Value>,
    connected: HashMap<MapData, Tuple, u64>,
}

impl Peers {
    pub(super) fn new(
        connecting: HashMap<MapData, u64, Value>,
        connected: HashMap<MapData, Tuple, u64>,
    ) -> Self {
        Self { connecting, connected }
    }

    /// Forgets those that wait for too long, once there are many.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sweep(&mut self) -> Result<usize, MapError> {
        if self.connecting.keys().count() < MANY && self.connected.keys().count() < MANY {
            return Ok(0);
        }
        let now = clock::now_boot_nanos();
        let (mut left, mut old) = (HashSet::new(), Vec::new());
        for entry in &self.connecting {
            let (cookie, client) = entry?;
            let since = Client::read_from_bytes(&client).map_or(0, |client| client.since_ns);
            if Duration::from_nanos(now.saturating_sub(since)) > LONGEST {
                old.push(cookie);
            } else {
                left.insert(cookie);
            }
        }
        for cookie in &old {
            gone(self.connecting.remove(cookie))?;
        }
        let mut without = Vec::new();
        for entry in &self.connected {
            let (tuple, cookie) = entry?;
            if !left.contains(&cookie) {
                without.push((tuple, cookie));
            }
        }
        for (tuple, cookie) in without {
            // It may have begun since.
            if matches!(self.connecting.get(&cookie, 0), Err(MapError::KeyNotFound)) {
                gone(self.connected.remove(&tuple))?;
            }
        }
        Ok(old.len())
    }
}
