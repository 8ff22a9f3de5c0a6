//! `filter.*`: values of one key are alternatives, all keys must pass, and exclude wins over include. A key
//! without values costs nothing, because the verifier removes its branch.

use acceptd_common::{FilterKey, filter::FilterValue, limits::FILTER_VALUES};
use aya_ebpf::{helpers::generated::bpf_get_current_cgroup_id, macros::map, maps::HashMap};

use crate::{offsets::*, sock::ProbedSock, task};

/// The values of all keys → [`FilterValue::INCLUDE`] and [`FilterValue::EXCLUDE`]. The agent fills the map
/// before it attaches the programs.
#[map]
static FILTER: HashMap<FilterValue, u8> =
    HashMap::with_max_entries(2 * FilterKey::ALL.len() as u32 * FILTER_VALUES, 0);

/// Whether an event of the current process on `sk` passes.
#[inline(never)]
pub fn passes(sk: ProbedSock) -> bool {
    passes_socket(sk) && passes_process()
}

/// Whether an event on `sk` passes as far as the socket is concerned. For events without a process: the agent
/// compares the owner of the listener.
#[inline(always)]
pub fn passes_socket(sk: ProbedSock) -> bool {
    passes_number(FilterKey::Port, || u64::from(u16::from_be(sk.local_port())))
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
        // SAFETY: the helper has no arguments.
        && passes_number(FilterKey::Cgroup, || unsafe { bpf_get_current_cgroup_id() })
        && passes_value(FilterKey::Comm, || FilterValue {
            value: task::current_leader_comm(),
            key: FilterKey::Comm as u32,
        })
}

#[inline(always)]
fn passes_number(key: FilterKey, number: impl FnOnce() -> u64) -> bool {
    passes_value(key, || FilterValue::number(key, number()))
}

#[inline(always)]
fn passes_value(key: FilterKey, value: impl FnOnce() -> FilterValue) -> bool {
    let includes = FILTER_INCLUDES.load() & key.bit() != 0;
    let excludes = FILTER_EXCLUDES.load() & key.bit() != 0;
    if !includes && !excludes {
        return true;
    }
    let found = match FILTER.get_ptr(&value()) {
        // SAFETY: a non-null map value of one byte.
        Some(found) => unsafe { *found },
        None => 0,
    };
    found & FilterValue::EXCLUDE == 0 && (!includes || found & FilterValue::INCLUDE != 0)
}
