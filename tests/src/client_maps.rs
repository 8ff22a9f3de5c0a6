//! Reads a running agent's BPF maps of local clients (ebpf/src/peers.rs), to check that entries are removed.

use std::fs;

use acceptd_common::ClientProcess;
use aya::maps::{HashMap, Map, MapData, MapInfo};
use rustix::process::Pid;
use zerocopy::FromBytes as _;

/// The key of `PEERS`: addresses and ports of a connection within the host.
type Tuple = [u8; 40];

/// The two maps in which an agent keeps client sockets.
#[derive(Debug)]
pub struct ClientMaps {
    connecting: HashMap<MapData, u64, [u8; size_of::<ClientProcess>()]>,
    connected: HashMap<MapData, Tuple, u64>,
}

impl ClientMaps {
    /// Opens the maps that the process `agent` holds.
    ///
    /// # Panics
    /// If it holds no maps of these names.
    #[must_use]
    pub fn from_agent(agent: Pid) -> Self {
        let map = |name| Map::HashMap(open_map(agent, name));
        Self {
            connecting: HashMap::try_from(map("CLIENTS")).expect("cookies to clients"),
            connected: HashMap::try_from(map("CLIENT_COOKIES")).expect("addresses to cookies"),
        }
    }

    /// Cookies of the sockets in `CONNECTING` that belong to a process. Entries may be removed during the
    /// iteration.
    #[must_use]
    pub fn cookies_of_process(&self, process: u32) -> Vec<u64> {
        let entries = self.connecting.iter().filter_map(Result::ok);
        let belongs_to_process = |client: &[u8]| {
            ClientProcess::read_from_bytes(client).is_ok_and(|client| client.peer.tgid == process)
        };
        entries.filter(|(_, client)| belongs_to_process(client)).map(|(cookie, _)| cookie).collect()
    }

    /// In how many of the two maps the client socket with this cookie is.
    #[must_use]
    pub fn maps_with(&self, cookie: u64) -> usize {
        let is_connected = self.connected.iter().filter_map(Result::ok).any(|(_, client)| client == cookie);
        usize::from(self.connecting.get(&cookie, 0).is_ok()) + usize::from(is_connected)
    }
}

/// Opens the map with this name, among those that `/proc/PID/fdinfo` lists for `process`.
fn open_map(process: Pid, name: &str) -> MapData {
    let folder = format!("/proc/{}/fdinfo", process.as_raw_nonzero());
    let descriptors = fs::read_dir(folder).expect("acceptd starts");
    let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let ids = texts.filter_map(|text| {
        text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse::<u32>().ok())
    });
    let found = ids.filter_map(|id| MapInfo::from_id(id).ok()).find(|map| map.name_as_str() == Some(name));
    MapData::from_id(found.unwrap_or_else(|| panic!("no map {name}")).id()).expect("the map still exists")
}
