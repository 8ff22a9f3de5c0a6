//! Failed accepts: how many of them may be records, and how many there were.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use acceptd_common::{Counter, FailureKey};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{
    budget, count,
    maps::{FAILURE_BUDGETS, FAILURES, NO_FAILURES},
    offsets::FAILURE_BUDGET,
    sock::Socket,
    task,
};

/// `BPF_NOEXIST`, include/uapi/linux/bpf.h
const NEW: u64 = 1;

/// Whether a failed accept at `now` (boot clock, ns) may still be a record.
#[inline(always)]
pub fn in_budget(listener: Socket, now: u64) -> bool {
    budget::allows(&FAILURE_BUDGETS, listener.inode, FAILURE_BUDGET.load(), now)
}

/// The description is made where it will be: it would not fit into the stack. Until then the task has no id.
#[inline(never)]
fn describe_first(key: &FailureKey, listener: &Socket) {
    let Some(none) = NO_FAILURES.get_ptr(0) else { return };
    // SAFETY: a non-null map value, which nobody writes.
    if FAILURES.insert(key, unsafe { &*none }, NEW).is_err() {
        // Another CPU has added it since.
        return;
    }
    let Some(first) = FAILURES.get_ptr_mut(key) else { return };
    // SAFETY: a non-null map value.
    let first = unsafe { &mut *first };
    task::current(&mut first.task);
    if listener.exists() {
        listener.describe_listener(&mut first.socket);
    }
}

/// Counts one failure of the current process.
#[inline(always)]
pub fn count(errno: u32, listener: Socket) {
    let key = FailureKey { listener: listener.inode, tgid: (bpf_get_current_pid_tgid() >> 32) as u32, errno };
    if FAILURES.get_ptr_mut(&key).is_none() {
        describe_first(&key, &listener);
    }
    match FAILURES.get_ptr_mut(&key) {
        // SAFETY: a non-null map value that begins with eight bytes of count.
        Some(failures) => unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*failures).count, 1);
        },
        None => count::add(Counter::FailureUntold),
    }
}
