//! `filter.*`: OR within a key, AND between keys, exclude wins. A key without values costs nothing: the verifier
//! removes its branch.

use acceptd_common::{FilterKey, filter::FilterValue};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_cgroup_id};

use crate::{maps::FILTER, offsets::*, sock::Socket, task};

/// Whether an event of the current process on `socket` passes.
#[inline(never)]
pub fn passes(socket: &Socket) -> bool {
    passes_socket(*socket) && passes_process()
}

/// Whether an event that no process is known of passes as far as its socket goes. The agent compares the owner.
#[inline(always)]
pub fn passes_socket(socket: Socket) -> bool {
    passes_number(FilterKey::Port, || u64::from(u16::from_be(socket.local_port())))
        && passes_family(socket.family())
        && passes_number(FilterKey::Netns, || u64::from(socket.netns()))
}

#[inline(always)]
pub fn passes_family(family: u16) -> bool {
    passes_number(FilterKey::Family, || u64::from(family))
}

/// Whether an event of the current process passes as far as the process goes.
#[inline(always)]
pub fn passes_process() -> bool {
    passes_number(FilterKey::Pid, || bpf_get_current_pid_tgid() >> 32)
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
