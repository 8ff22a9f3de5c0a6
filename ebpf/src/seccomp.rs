//! Tier 2: system calls that a seccomp filter refused. The kernel announces the end of such a call
//! (`sys_exit`) although the call never ran, and its registers look like those of a call that failed.
//!
//! The kernel keeps, for each filter, which system calls it and all filters before it allow whatever the
//! arguments are (`struct action_cache`, kernel/seccomp.c). A call that is among them was not refused.

use acceptd_common::Counter;

use crate::{
    count,
    offsets::*,
    read::{AnyStruct, Probed, Typed, load_at},
    syscall::CallKind,
    task,
    uapi::{EAGAIN, SECCOMP_MODE_FILTER},
};

/// Bits of a bitmap of system calls that are read: all numbers of the calls that acceptd captures.
const NUMBERS: u32 = 512;

/// Whether a filter of the current task may have refused the system call that `regs` (`struct pt_regs`)
/// describes and that ended with `result`. `false` for a call that did not fail, or found an empty queue.
#[inline(always)]
pub fn may_have_refused(regs: Typed<AnyStruct>, result: i32) -> bool {
    result < 0 && result != -EAGAIN && TASK_SECCOMP_MODE.load() != ABSENT && is_filtered(regs)
}

#[inline(always)]
fn is_filtered(regs: Typed<AnyStruct>) -> bool {
    let task = task::current();
    if task.load::<u32>(&TASK_SECCOMP_MODE) != SECCOMP_MODE_FILTER {
        return false;
    }
    let in_compat = u64::from(task.load::<u32>(&TASK_COMPAT_FLAGS)) & COMPAT_MASK.load() != 0;
    let allowed = if in_compat { &SECCOMP_ALLOWS_COMPAT } else { &SECCOMP_ALLOWS_NATIVE };
    if allowed.load() == ABSENT {
        return true;
    }
    let number = regs.load::<u32>(&PT_REGS_NR) % NUMBERS;
    let filter: Probed<AnyStruct> = task.probed().follow(&TASK_SECCOMP_FILTER);
    let bitmap = filter.member(allowed).cast::<u64>();
    let word: u64 = load_at(bitmap.wrapping_add(number as usize / 64));
    word >> (number % 64) & 1 == 0
}

/// Counts a call that a filter may have refused. It is no record.
#[inline(always)]
pub fn count_refused(kind: CallKind) {
    count::add(match kind {
        CallKind::Accept(_) => Counter::Seen,
        CallKind::Related(_) => Counter::OtherEvents,
    });
    count::add(Counter::MaybeRefused);
}
