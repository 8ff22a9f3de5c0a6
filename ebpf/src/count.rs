//! Counters and sequence numbers.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use acceptd_common::{Counter, limits::FAILURES_PER_CPU_SECOND};

use crate::maps::{COUNTERS, FAILURE_BUDGET, SEQUENCE};

const SECOND_NS: u64 = 1_000_000_000;

/// Adds one to `counter` on this CPU.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a non-null map value of eight bytes.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, 1) };
    }
}

/// The next sequence number of this CPU. A fetching add: with a plain increment two programs, one preempting
/// the other, would get the same number. Not `Relaxed`: for that ordering this LLVM emits the add without
/// BPF_FETCH even where its result is used, and every event would get the operand, 1 (seen).
#[inline(always)]
pub fn next_sequence() -> u64 {
    match SEQUENCE.get_ptr_mut(0) {
        // SAFETY: a non-null map value of eight bytes.
        Some(value) => unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(value, 1) },
        None => 0,
    }
}

/// Whether a failed accept at `now` (boot clock, ns) may still be a record. Two programs on one CPU may both take
/// the last place: the budget is a bound on volume, not a count, and what it refuses is counted by the caller.
#[inline(always)]
pub fn failure_in_budget(now: u64) -> bool {
    let Some(budget) = FAILURE_BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: a non-null map value of two words, of this CPU.
    let [second, used] = unsafe { &mut *budget };
    let this_second = now / SECOND_NS;
    if *second != this_second {
        *second = this_second;
        *used = 0;
    }
    *used += 1;
    *used <= FAILURES_PER_CPU_SECOND
}
