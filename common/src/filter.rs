//! The keys and values of `filter.*`. The agent fills maps with the configured values, and the programs look
//! up those of each event.

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The property of an event that a filter compares. Its number is a bit position in the programs'
/// `FILTER_INCLUDES` and `FILTER_EXCLUDES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum FilterKey {
    /// The local port, host order.
    Port = 0,
    /// The address family.
    Family = 1,
    /// The process id in the host's pid namespace.
    Pid = 2,
    /// The comm of the process: that of its main thread.
    Comm = 3,
    /// The cgroup v2 id.
    Cgroup = 4,
    /// The inode number of the network namespace.
    Netns = 5,
    /// The peer's address. Its values are prefixes ([`PeerPrefix`]) in a map of their own.
    Peer = 6,
}

impl FilterKey {
    /// Every key.
    pub const ALL: [Self; 7] =
        [Self::Port, Self::Family, Self::Pid, Self::Comm, Self::Cgroup, Self::Netns, Self::Peer];

    /// The bit of this key.
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// Key of the map `FILTER`: one value of one property. The map's value is a set of [`FilterValue::INCLUDE`]
/// and [`FilterValue::EXCLUDE`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FilterValue {
    /// A number in host order in the first eight bytes, or a comm. The rest is zero.
    pub value: [u8; 16],
    /// A [`FilterKey`].
    pub key: u32,
}

impl FilterValue {
    /// Only events with this value (or another of the same key) pass.
    pub const INCLUDE: u8 = 1;
    /// Events with this value are excluded.
    pub const EXCLUDE: u8 = 2;

    /// The value `number` of `key`.
    #[must_use]
    pub fn number(key: FilterKey, number: u64) -> Self {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&number.to_ne_bytes());
        Self { value, key: key as u32 }
    }
}

/// Key of the map `FILTER_PEERS`: a network of peers, or with all bits in `length` the address of one. The
/// map's value is a set of [`FilterValue::INCLUDE`] and [`FilterValue::EXCLUDE`]: those of this network, and
/// of every configured network that contains it, because the kernel finds the longest prefix only.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PeerPrefix {
    /// Bits of `data` that count.
    pub length: u32,
    /// The family, 4 or 6, as a word in host order, and the address as four words in network order. An IPv4
    /// address is the first of them. An IPv4-mapped address is an IPv4 address.
    pub data: [u32; 5],
}

impl PeerPrefix {
    /// Bits before those of the address.
    pub const FAMILY_BITS: u32 = 32;
    /// The first word of an IPv4 network.
    pub const IPV4: u32 = 4;
    /// The first word of an IPv6 network.
    pub const IPV6: u32 = 6;
}

const _: () = assert!(size_of::<FilterValue>() == 20);
const _: () = assert!(size_of::<PeerPrefix>() == 24);
