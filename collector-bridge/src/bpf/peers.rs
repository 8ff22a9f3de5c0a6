//! Sweeps the maps with the client processes of connections within the host.
//!
//! The eBPF programs remove an entry at the accept, or when either end closes. When they miss the close, the
//! entry stays; the sweep evicts it.

use std::{collections::HashSet, time::Duration};

use acceptd_common::ClientProcess;
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::FromBytes as _;

use super::map::ignore_missing_key;
use crate::clock;

/// Age at which an entry is evicted: a connection that is accepted later is recorded without its client.
const MAX_AGE: Duration = Duration::from_mins(5);

/// Number of entries below which a sweep does nothing, because reading the whole map is not worth its cost.
const SWEEP_FROM: usize = 1024;

/// The bytes of [`ClientProcess`].
type ValueBytes = [u8; size_of::<ClientProcess>()];
/// The bytes of `struct Tuple` (ebpf/src/sock.rs).
type TupleBytes = [u8; 40];

/// The two maps of client processes.
pub struct PeerMaps {
    /// Client process by the cookie of the client's socket.
    clients: HashMap<MapData, u64, ValueBytes>,
    /// Cookie of the client's socket by the addresses of the connection.
    cookies: HashMap<MapData, TupleBytes, u64>,
}

impl PeerMaps {
    pub(super) fn new(
        clients: HashMap<MapData, u64, ValueBytes>,
        cookies: HashMap<MapData, TupleBytes, u64>,
    ) -> Self {
        Self { clients, cookies }
    }

    /// Evicts entries older than five minutes once either map holds 1024 entries. Returns how many clients
    /// were evicted.
    ///
    /// # Errors
    /// When the kernel refuses to read or remove an entry.
    pub fn sweep(&mut self) -> Result<usize, MapError> {
        if self.clients.keys().count() < SWEEP_FROM && self.cookies.keys().count() < SWEEP_FROM {
            return Ok(0);
        }
        let now = clock::now_boot_nanos();
        let (mut kept, mut expired) = (HashSet::new(), Vec::new());
        for entry in &self.clients {
            let (cookie, client) = entry?;
            let since = ClientProcess::read_from_bytes(&client).map_or(0, |client| client.since_ns);
            if Duration::from_nanos(now.saturating_sub(since)) > MAX_AGE {
                expired.push(cookie);
            } else {
                kept.insert(cookie);
            }
        }
        for cookie in &expired {
            ignore_missing_key(self.clients.remove(cookie))?;
        }
        let mut orphans = Vec::new();
        for entry in &self.cookies {
            let (tuple, cookie) = entry?;
            if !kept.contains(&cookie) {
                orphans.push((tuple, cookie));
            }
        }
        for (tuple, cookie) in orphans {
            // The client may have connected after its map was read: look again before removing its addresses.
            if matches!(self.clients.get(&cookie, 0), Err(MapError::KeyNotFound)) {
                ignore_missing_key(self.cookies.remove(&tuple))?;
            }
        }
        Ok(expired.len())
    }
}
