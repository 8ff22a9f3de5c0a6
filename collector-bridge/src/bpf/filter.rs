//! The event filter (`filter.*`): the values for the kernel's maps, and the same rule for records that the
//! agent makes in user space.

mod cgroups;
mod live;

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use acceptd_common::{FilterKey, Listener, PeerPrefix, Task, filter::FilterValue};
use cgroups::CgroupSubtrees;
pub use live::LiveFilter;

use crate::config::{self, Family, Network};

/// Which events are recorded. Values of one key are alternatives (OR), keys are combined with AND, and
/// exclude wins over include.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    values: BTreeMap<FilterValue, u8>,
    /// Peers, with the flags of the networks that contain them as well.
    peers: BTreeMap<Network, u8>,
    cgroups: CgroupSubtrees,
    includes: u64,
    excludes: u64,
}

impl EventFilter {
    /// The filter of a configuration. `cgroups` is where the host's cgroup v2 file system is mounted.
    ///
    /// # Errors
    /// When no cgroup can have a configured path, with the remedy. A cgroup that does not exist is no error.
    pub fn from_config(
        include: &config::FilterSection,
        exclude: &config::FilterExcludeSection,
        cgroups: &Path,
    ) -> Result<Self, String> {
        let mut filter = Self::default();
        filter.include(numbers(FilterKey::Port, &include.ports));
        filter.exclude(numbers(FilterKey::Port, &exclude.ports));
        filter.include(families(&include.families));
        filter.exclude(families(&exclude.families));
        filter.include(numbers(FilterKey::Pid, &include.pids));
        filter.exclude(numbers(FilterKey::Pid, &exclude.pids));
        filter.include(include.comms.iter().map(|comm| comm_value(comm.as_bytes())));
        filter.exclude(exclude.comms.iter().map(|comm| comm_value(comm.as_bytes())));
        for path in &include.cgroups {
            filter.includes |= FilterKey::Cgroup.bit();
            filter.cgroups.add("filter.cgroups", path, FilterValue::INCLUDE, cgroups)?;
        }
        for path in &exclude.cgroups {
            filter.excludes |= FilterKey::Cgroup.bit();
            filter.cgroups.add("filter.exclude.cgroups", path, FilterValue::EXCLUDE, cgroups)?;
        }
        filter.include(numbers(FilterKey::Netns, &include.netns));
        filter.exclude(numbers(FilterKey::Netns, &exclude.netns));
        filter.add_peers(&include.peers, &exclude.peers);
        Ok(filter)
    }

    /// A filter that only events of process `pid` pass.
    #[must_use]
    pub fn for_process(pid: u32) -> Self {
        let mut filter = Self::default();
        filter.include(numbers(FilterKey::Pid, &[u64::from(pid)]));
        filter
    }

    fn include(&mut self, values: impl Iterator<Item = FilterValue>) {
        for value in values {
            self.includes |= 1 << value.key;
            *self.values.entry(value).or_default() |= FilterValue::INCLUDE;
        }
    }

    fn exclude(&mut self, values: impl Iterator<Item = FilterValue>) {
        for value in values {
            self.excludes |= 1 << value.key;
            *self.values.entry(value).or_default() |= FilterValue::EXCLUDE;
        }
    }

    fn add_peers(&mut self, include: &[Network], exclude: &[Network]) {
        self.includes |= if include.is_empty() { 0 } else { FilterKey::Peer.bit() };
        self.excludes |= if exclude.is_empty() { 0 } else { FilterKey::Peer.bit() };
        let covers =
            |networks: &[Network], network: Network| networks.iter().any(|one| one.contains(network));
        for network in include.iter().chain(exclude) {
            let included = if covers(include, *network) { FilterValue::INCLUDE } else { 0 };
            let excluded = if covers(exclude, *network) { FilterValue::EXCLUDE } else { 0 };
            self.peers.insert(*network, included | excluded);
        }
    }

    /// Whether no key has values to include: then every event passes, unless it is excluded.
    #[must_use]
    pub fn has_no_includes(&self) -> bool {
        self.includes == 0
    }

    /// The keys that have values to include, as a bit mask ([`FilterKey::bit`]).
    #[must_use]
    pub fn includes(&self) -> u64 {
        self.includes
    }

    /// The keys that have values to exclude, as a bit mask ([`FilterKey::bit`]).
    #[must_use]
    pub fn excludes(&self) -> u64 {
        self.excludes
    }

    /// The configured cgroups that exist now, as further entries of the kernel's map.
    pub fn cgroups(&self) -> impl Iterator<Item = (FilterValue, u8)> {
        self.cgroups
            .present()
            .into_iter()
            .map(|(id, flags)| (FilterValue::number(FilterKey::Cgroup, id), flags))
    }

    /// Bits of the levels at which the programs compare the cgroups of a task.
    #[must_use]
    pub fn cgroup_levels(&self) -> u64 {
        self.cgroups.levels()
    }

    /// The entries of the kernel's map of peers: each network with its flags.
    pub fn peers(&self) -> impl Iterator<Item = (PeerPrefix, u8)> {
        self.peers.iter().map(|(network, flags)| (peer_prefix(*network), *flags))
    }

    /// The entries of the kernel's map: each value with its flags ([`FilterValue::INCLUDE`],
    /// [`FilterValue::EXCLUDE`]). Cgroups are not among them; see [`Self::cgroups`].
    pub fn values(&self) -> impl Iterator<Item = (&FilterValue, u8)> {
        self.values.iter().map(|(value, flags)| (value, *flags))
    }

    /// Whether an event of `listener` and its owner passes. An unknown owner passes no filter that includes
    /// processes or cgroups. The filter for peers is about connections only.
    #[must_use]
    pub fn passes(&self, listener: &Listener, owner: Option<&Task>) -> bool {
        self.passes_connection(listener, owner, listener.port)
    }

    /// Like [`Self::passes`], for an event of a connection to the local port `port` (network order) that
    /// waited for `listener`. One of the two ports has to match.
    #[must_use]
    pub fn passes_connection(&self, listener: &Listener, owner: Option<&Task>, port: u16) -> bool {
        let flags_of =
            |port| self.flags(&FilterValue::number(FilterKey::Port, u64::from(u16::from_be(port))));
        let process = |value: fn(&Task) -> FilterValue| owner.map(value);
        self.passes_flags(FilterKey::Port, flags_of(listener.port) | flags_of(port))
            && self.passes_value(
                FilterKey::Family,
                Some(FilterValue::number(FilterKey::Family, u64::from(listener.family))),
            )
            && self.passes_value(
                FilterKey::Netns,
                Some(FilterValue::number(FilterKey::Netns, u64::from(listener.netns))),
            )
            && self.passes_value(
                FilterKey::Pid,
                process(|task| FilterValue::number(FilterKey::Pid, u64::from(task.tgid))),
            )
            && self.passes_value(FilterKey::Comm, process(|task| comm_value(&task.leader_comm)))
            && self.passes_flags(
                FilterKey::Cgroup,
                owner.map(|task| self.cgroups.flags(task.cgroup_id)).unwrap_or_default(),
            )
    }

    fn passes_value(&self, key: FilterKey, value: Option<FilterValue>) -> bool {
        self.passes_flags(key, value.map(|value| self.flags(&value)).unwrap_or_default())
    }

    fn flags(&self, value: &FilterValue) -> u8 {
        self.values.get(value).copied().unwrap_or_default()
    }

    fn passes_flags(&self, key: FilterKey, found: u8) -> bool {
        found & FilterValue::EXCLUDE == 0
            && (self.includes & key.bit() == 0 || found & FilterValue::INCLUDE != 0)
    }
}

fn peer_prefix(network: Network) -> PeerPrefix {
    let (family, address) = match network.address() {
        IpAddr::V4(address) => (PeerPrefix::IPV4, [u32::from_ne_bytes(address.octets()), 0, 0, 0]),
        IpAddr::V6(address) => (PeerPrefix::IPV6, zerocopy::transmute!(address.octets())),
    };
    let [a, b, c, d] = address;
    PeerPrefix {
        length: PeerPrefix::FAMILY_BITS + u32::from(network.prefix_length()),
        data: [family, a, b, c, d],
    }
}

fn numbers(key: FilterKey, numbers: &[u64]) -> impl Iterator<Item = FilterValue> {
    numbers.iter().map(move |number| FilterValue::number(key, *number))
}

fn families(families: &[Family]) -> impl Iterator<Item = FilterValue> {
    families.iter().map(|family| FilterValue::number(FilterKey::Family, u64::from(family.number())))
}

/// A comm as the kernel stores it: truncated, and padded with zeroes.
fn comm_value(comm: &[u8]) -> FilterValue {
    let mut value = [0; 16];
    for (to, from) in value.iter_mut().zip(comm) {
        *to = *from;
    }
    FilterValue { value, key: FilterKey::Comm as u32 }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::config::Config;

    fn filter(change: impl FnOnce(&mut Config)) -> EventFilter {
        let mut config = Config::default();
        change(&mut config);
        EventFilter::from_config(&config.filter, &config.filter_exclude, Path::new("/nonexistent"))
            .expect("no cgroups")
    }

    fn nginx() -> (Listener, Task) {
        let (mut listener, mut task) = (Listener::new_zeroed(), Task::new_zeroed());
        listener.port = 443_u16.to_be();
        listener.family = 2;
        listener.netns = 7;
        task.tgid = 812;
        task.leader_comm[..5].copy_from_slice(b"nginx");
        (listener, task)
    }

    #[test]
    fn without_values_everything_passes() {
        let (listener, task) = nginx();
        assert!(filter(|_| ()).passes(&listener, Some(&task)));
        assert!(filter(|_| ()).passes(&listener, None));
    }

    #[test]
    fn or_within_a_key_and_between_keys() {
        let (listener, task) = nginx();
        let passes = |change: fn(&mut Config)| filter(change).passes(&listener, Some(&task));
        assert!(passes(|config| config.filter.ports = vec![80, 443]));
        assert!(!passes(|config| config.filter.ports = vec![80]));
        assert!(passes(|config| {
            config.filter.ports = vec![443];
            config.filter.comms = vec!["nginx".to_owned()];
        }));
        assert!(!passes(|config| {
            config.filter.ports = vec![443];
            config.filter.comms = vec!["ngin".to_owned()];
        }));
        assert!(passes(|config| config.filter.families = vec![Family::Inet]));
        assert!(!passes(|config| config.filter.families = vec![Family::Inet6, Family::Unix]));
        assert!(passes(|config| config.filter.netns = vec![7]));
        assert!(passes(|config| config.filter.pids = vec![812]));
    }

    #[test]
    fn exclude_wins() {
        let (listener, task) = nginx();
        let filter = filter(|config| {
            config.filter.ports = vec![443];
            config.filter_exclude.ports = vec![443];
        });
        assert!(!filter.passes(&listener, Some(&task)));
        assert_eq!(filter.values().count(), 1, "one value, included and excluded");
    }

    #[test]
    fn an_unknown_process_passes_no_filter_for_processes() {
        let (listener, _) = nginx();
        assert!(!filter(|config| config.filter.pids = vec![812]).passes(&listener, None));
        assert!(filter(|config| config.filter_exclude.pids = vec![812]).passes(&listener, None));
    }

    #[test]
    fn the_port_of_the_connection_or_of_the_listener_matches() {
        let (listener, _) = nginx();
        let passes = |change: fn(&mut Config), port: u16| {
            filter(change).passes_connection(&listener, None, port.to_be())
        };
        for port in [80, 443] {
            assert!(passes(|config| config.filter.ports = vec![443], port));
            assert!(!passes(|config| config.filter_exclude.ports = vec![443], port));
        }
        assert!(passes(|config| config.filter.ports = vec![80], 80));
        assert!(!passes(|config| config.filter.ports = vec![80], 81));
        assert!(!passes(|config| config.filter_exclude.ports = vec![80], 80));
    }

    #[test]
    fn a_missing_cgroup_is_no_error_and_passes_nothing() {
        let (listener, task) = nginx();
        assert!(
            !filter(|config| config.filter.cgroups = vec!["/none".to_owned()]).passes(&listener, Some(&task))
        );
        let excluded = filter(|config| config.filter_exclude.cgroups = vec!["/none".to_owned()]);
        assert!(excluded.passes(&listener, Some(&task)));
        assert!(excluded.has_no_includes());
    }

    #[test]
    fn a_network_has_the_flags_of_those_that_contain_it() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect();
        let filter = filter(|config| {
            config.filter.peers = networks(&["10.0.0.0/8", "2001:db8::1"]);
            config.filter_exclude.peers = networks(&["10.9.0.0/16", "10.9.9.0/24", "::/0"]);
        });
        let flags: Vec<(u32, u32, u8)> =
            filter.peers().map(|(prefix, flags)| (prefix.data[0], prefix.length - 32, flags)).collect();
        assert_eq!(flags, [(4, 8, 1), (4, 16, 3), (4, 24, 3), (6, 0, 2), (6, 128, 3)]);
        let (listener, task) = nginx();
        assert!(filter.passes(&listener, Some(&task)), "an event of a listener has no peer");
        assert!(!filter.has_no_includes());
    }
}
