//! Counters and sequence numbers.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use acceptd_common::Counter;

use crate::maps::{COUNTERS, SEQUENCE};

/// Adds one to `counter` on this CPU.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a non-null map value of eight bytes.
        add_to(unsafe { &mut *value }, 1);
    }
}

/// Adds to a word in a map, which programs share.
#[inline(always)]
pub fn add_to(word: &mut u64, value: u64) {
    // SAFETY: a reference to a whole word.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, value) };
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
