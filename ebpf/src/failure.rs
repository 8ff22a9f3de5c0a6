//! Failed accepts: how often each failure happened, and whether one more may be reported.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use acceptd_common::{
    Counter, FailureKey, FailureStats,
    limits::{BUDGETED_LISTENERS, FAILURE_KEYS, LOST_CONNECTIONS as LOST_CONNECTIONS_KEPT},
};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::map,
    maps::{Array, HashMap, LruHashMap},
};

use crate::{
    budget::{Budgets, try_take},
    count,
    offsets::FAILURE_BUDGET,
    sock::FileSock,
    task,
    uapi::{BPF_ANY, BPF_NOEXIST, ECONNABORTED, EFAULT},
};

/// Inode of a listener → its budget of reported failures.
#[map]
static FAILURE_BUDGETS: Budgets = Budgets::with_max_entries(BUDGETED_LISTENERS, 0);

/// Thread → boot time at which its accept could not return the connection that it took, until that is closed.
/// The connection of an evicted thread is not reported as abandoned.
#[map]
static LOST_CONNECTIONS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(LOST_CONNECTIONS_KEPT, 0);

/// The latest time in `LOST_CONNECTIONS`: 0 on nearly every host.
#[map]
static LATEST_LOST_CONNECTION: Array<u64> = Array::with_max_entries(1, 0);

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

/// Notes that the accept of the current thread failed with `errno`. Some errors come after the connection was
/// taken from the queue: the kernel then closes it (`do_accept`, net/socket.c), before the thread runs on.
#[inline(always)]
pub fn note_lost_connection(errno: u32, now: u64) {
    if !matches!(errno, ECONNABORTED | EFAULT) {
        return;
    }
    let _ = LOST_CONNECTIONS.insert(&bpf_get_current_pid_tgid(), &now, BPF_ANY);
    if let Some(latest) = LATEST_LOST_CONNECTION.get_ptr_mut(0) {
        // SAFETY: a non-null map value of eight bytes.
        unsafe { *latest = now };
    }
}

/// Whether the current thread closes the connection of its own failed accept. Returns that once.
#[inline(always)]
pub fn has_lost_connection() -> bool {
    let Some(latest) = LATEST_LOST_CONNECTION.get_ptr(0) else { return false };
    // SAFETY: a non-null map value of eight bytes. Nearly every caller leaves here.
    let is_any = unsafe { *latest } != 0;
    is_any && LOST_CONNECTIONS.remove(&bpf_get_current_pid_tgid()).is_ok()
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
