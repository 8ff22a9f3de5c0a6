//! Failed accepts: how often each failure happened, and whether one more may be reported.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use acceptd_common::{
    Counter, FailureKey, FailureStats,
    limits::{BUDGETED_LISTENERS, FAILURE_KEYS},
};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};

use crate::{
    budget::{Budgets, try_take},
    count,
    offsets::FAILURE_BUDGET,
    sock::FileSock,
    task,
    uapi::BPF_NOEXIST,
};

/// Inode of a listener → its budget of reported failures.
#[map]
static FAILURE_BUDGETS: Budgets = Budgets::with_max_entries(BUDGETED_LISTENERS, 0);

/// The failures of each listener, process and errno since the programs were loaded. If the map is full,
/// `Counter::FailureUncounted` counts the failure.
#[map]
static FAILURES: HashMap<FailureKey, FailureStats> = HashMap::with_max_entries(FAILURE_KEYS, 0);

/// The zero value that an entry of `FAILURES` starts with, which is too large for the stack.
#[map]
static ZERO_FAILURES: Array<FailureStats> = Array::with_max_entries(1, 0);

/// Takes one from the listener's budget of reported failures at `now` (boot clock, ns); `false` if it is used
/// up.
#[inline(always)]
pub fn take_budget(listener: FileSock, now: u64) -> bool {
    try_take(&FAILURE_BUDGETS, listener.inode, FAILURE_BUDGET.load(), now)
}

/// Creates the entry for `key`, with the current task and the listener. It is filled in place, since it is
/// too large for the stack. Until then its `task.tgid` is 0: the agent skips such an entry, and reads it next
/// time (collector-bridge/src/bpf/failures.rs).
#[inline(never)]
fn create_entry(key: &FailureKey, listener: &FileSock) {
    let Some(zero) = ZERO_FAILURES.get_ptr(0) else { return };
    // SAFETY: a non-null map value, which no program writes to.
    if FAILURES.insert(key, unsafe { &*zero }, BPF_NOEXIST).is_err() {
        // Another CPU inserted it first, or the map is full.
        return;
    }
    let Some(stats) = FAILURES.get_ptr_mut(key) else { return };
    // SAFETY: a non-null map value.
    let stats = unsafe { &mut *stats };
    task::describe_current(&mut stats.task);
    if listener.exists() {
        listener.sk.describe_listener(listener.inode, &mut stats.socket);
    }
}

/// Counts one failed accept of the current process.
#[inline(always)]
pub fn count(errno: u32, listener: FileSock) {
    let key = FailureKey { listener: listener.inode, tgid: task::current_tgid(), errno };
    if FAILURES.get_ptr_mut(&key).is_none() {
        create_entry(&key, &listener);
    }
    match FAILURES.get_ptr_mut(&key) {
        // SAFETY: a non-null map value that begins with eight bytes of count.
        Some(stats) => unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*stats).count, 1);
        },
        None => count::add(Counter::FailureUncounted),
    }
}
