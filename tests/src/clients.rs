//! Who connects, as an agent keeps it in its maps (ebpf/src/peers.rs).

use std::fs;

use acceptd_common::Client;
use aya::maps::{HashMap, Map, MapData, MapInfo};
use rustix::process::Pid;
use zerocopy::FromBytes as _;

/// Key and value of the map of connections within the host.
type Tuple = [u8; 40];

/// What an agent keeps of clients.
#[derive(Debug)]
pub struct Clients {
    connecting: HashMap<MapData, u64, [u8; size_of::<Client>()]>,
    connected: HashMap<MapData, Tuple, u64>,
}

impl Clients {
    /// That of a running agent.
    ///
    /// # Panics
    /// When it has no such maps.
    #[must_use]
    pub fn of(agent: Pid) -> Self {
        let map = |name| Map::HashMap(map_of(agent, name));
        Self {
            connecting: HashMap::try_from(map("CONNECTING")).expect("cookies to clients"),
            connected: HashMap::try_from(map("PEERS")).expect("addresses to cookies"),
        }
    }

    /// Cookies of sockets that are kept for a process. They may go while one looks.
    #[must_use]
    pub fn of_process(&self, process: u32) -> Vec<u64> {
        let entries = self.connecting.iter().filter_map(Result::ok);
        let is_of =
            |client: &[u8]| Client::read_from_bytes(client).is_ok_and(|client| client.peer.tgid == process);
        entries.filter(|(_, client)| is_of(client)).map(|(cookie, _)| cookie).collect()
    }

    /// In how many maps a client's socket is.
    #[must_use]
    pub fn maps_with(&self, cookie: u64) -> usize {
        let is_connected = self.connected.iter().filter_map(Result::ok).any(|(_, of)| of == cookie);
        usize::from(self.connecting.get(&cookie, 0).is_ok()) + usize::from(is_connected)
    }
}

/// The map with this name that `process` holds.
fn map_of(process: Pid, name: &str) -> MapData {
    let folder = format!("/proc/{}/fdinfo", process.as_raw_nonzero());
    let descriptors = fs::read_dir(folder).expect("it runs");
    let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let ids = texts.filter_map(|text| {
        text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse::<u32>().ok())
    });
    let found = ids.filter_map(|id| MapInfo::from_id(id).ok()).find(|map| map.name_as_str() == Some(name));
    MapData::from_id(found.unwrap_or_else(|| panic!("no map {name}")).id()).expect("it is there")
}
