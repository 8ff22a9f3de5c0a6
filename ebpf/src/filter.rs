//! `filter.*`: values of one key are alternatives, all keys must pass, and exclude wins over include. A key
//! without values costs nothing, because the verifier removes its branch.

use acceptd_common::{
    FilterKey, PeerPrefix,
    filter::FilterValue,
    limits::{FILTER_CGROUP_LEVELS as LEVELS, FILTER_PEERS as PEERS, FILTER_VALUES},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::bpf_get_current_ancestor_cgroup_id,
    macros::map,
    maps::{HashMap, LpmTrie, lpm_trie::Key},
};

use crate::{
    offsets::*,
    read::as_scalar,
    sock::ProbedSock,
    task,
    tuple::unmapped,
    uapi::{AF_INET, AF_INET6},
};

/// The values of all keys but the peer → [`FilterValue::INCLUDE`] and [`FilterValue::EXCLUDE`]. The agent
/// fills the map before it attaches the programs. It changes the cgroups later, when they come and go.
#[map]
static FILTER: HashMap<FilterValue, u8> =
    HashMap::with_max_entries(2 * FilterKey::ALL.len() as u32 * FILTER_VALUES, 0);

/// Networks of peers ([`PeerPrefix`]) → the same flags. The agent fills the map before it attaches the
/// programs.
#[map]
static FILTER_PEERS: LpmTrie<[u32; 5], u8> = LpmTrie::with_max_entries(2 * PEERS, BPF_F_NO_PREALLOC);

/// Whether an event of the current process on `sk` passes that is not about a connection.
#[inline(never)]
pub fn passes(sk: ProbedSock) -> bool {
    passes_socket(sk) && passes_process()
}

/// Whether an accept passes that returned `accepted`, or an unknown connection if that is null, from
/// `listener`, which may be null as well. A port matches if it is that of either.
#[inline(never)]
pub fn passes_accept(accepted: ProbedSock, listener: ProbedSock) -> bool {
    let either = accepted.or(listener);
    let has_ports = || flags_of_port(accepted) | flags_of_port(listener);
    passes_flags(FilterKey::Port, has_ports)
        && passes_family(either.family())
        && passes_number(FilterKey::Netns, || u64::from(either.netns()))
        && passes_peer(accepted)
        && passes_process()
}

/// Whether an event on the connection `sk` passes as far as the connection is concerned. For events without a
/// process: the agent compares the owner of the listener, and which ports are included, since the listener's
/// may be another one.
#[inline(always)]
pub fn passes_connection(sk: ProbedSock) -> bool {
    passes_flags(FilterKey::Port, || flags_of_port(sk) | FilterValue::INCLUDE)
        && passes_family(sk.family())
        && passes_number(FilterKey::Netns, || u64::from(sk.netns()))
        && passes_peer(sk)
}

/// Whether an event on the listener `sk` passes as far as the socket is concerned. For events without a
/// process: the agent compares the owner of the listener.
#[inline(always)]
pub fn passes_socket(sk: ProbedSock) -> bool {
    passes_flags(FilterKey::Port, || flags_of_port(sk))
        && passes_family(sk.family())
        && passes_number(FilterKey::Netns, || u64::from(sk.netns()))
}

/// Whether an event on a socket of this family passes as far as the family is concerned.
#[inline(always)]
pub fn passes_family(family: u16) -> bool {
    passes_number(FilterKey::Family, || u64::from(family))
}

/// Whether an event of the current process passes as far as the process is concerned.
#[inline(always)]
pub fn passes_process() -> bool {
    passes_number(FilterKey::Pid, || u64::from(task::current_tgid()))
        && passes_flags(FilterKey::Cgroup, || current_cgroup_flags() as u8)
        && passes_flags(FilterKey::Comm, || {
            flags(&FilterValue { value: task::current_leader_comm(), key: FilterKey::Comm as u32 })
        })
}

#[inline(always)]
fn passes_peer(sk: ProbedSock) -> bool {
    // A global function takes a socket only as a number.
    passes_flags(FilterKey::Peer, || peer_flags(as_scalar(sk.as_ptr() as u64)) as u8)
}

#[inline(always)]
fn passes_number(key: FilterKey, number: impl FnOnce() -> u64) -> bool {
    passes_flags(key, || flags(&FilterValue::number(key, number())))
}

/// Whether an event passes of whose values `flags` are found. They are not looked for if `key` has no values.
#[inline(always)]
fn passes_flags(key: FilterKey, flags: impl FnOnce() -> u8) -> bool {
    let includes = FILTER_INCLUDES.load() & key.bit() != 0;
    let excludes = FILTER_EXCLUDES.load() & key.bit() != 0;
    if !includes && !excludes {
        return true;
    }
    let found = flags();
    found & FilterValue::EXCLUDE == 0 && (!includes || found & FilterValue::INCLUDE != 0)
}

/// The flags of a configured value; 0 for any other.
#[inline(always)]
fn flags(value: &FilterValue) -> u8 {
    match FILTER.get_ptr(value) {
        // SAFETY: a non-null map value of one byte.
        Some(found) => unsafe { *found },
        None => 0,
    }
}

#[inline(always)]
fn flags_of_port(sk: ProbedSock) -> u8 {
    flags(&FilterValue::number(FilterKey::Port, u64::from(u16::from_be(sk.local_port()))))
}

/// The flags of all configured cgroups that the current task is in, at any depth. A global function, so that
/// the verifier checks it once and not on every path that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn current_cgroup_flags() -> i32 {
    let mut found = 0;
    for level in 0..LEVELS {
        if FILTER_CGROUP_LEVELS.load() & 1 << level != 0 {
            // SAFETY: the helper takes any level. It returns 0 for one below that of the task's cgroup, and
            // no cgroup has this id.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
            found |= flags(&FilterValue::number(FilterKey::Cgroup, id));
        }
    }
    i32::from(found)
}

/// The flags of all configured networks that contain the peer of `sk`, a `struct sock`; 0 if it has no
/// address of IPv4 or IPv6. A global function; see [`current_cgroup_flags`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn peer_flags(sk: u64) -> i32 {
    let sk = ProbedSock::new(sk as *const u8);
    let family = sk.family();
    if !matches!(family, AF_INET | AF_INET6) {
        return 0;
    }
    let (is_mapped, [a, b, c, d]) = unmapped(family, sk.peer_address());
    let version = if is_mapped || family == AF_INET { PeerPrefix::IPV4 } else { PeerPrefix::IPV6 };
    // The verifier wants memory that was written to. The black box keeps LLVM from leaving it uninitialised.
    let key = core::hint::black_box(Key::new(PeerPrefix::FAMILY_BITS + 128, [version, a, b, c, d]));
    FILTER_PEERS.get(&key).copied().map_or(0, i32::from)
}
