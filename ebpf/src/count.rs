//! The event counters and the sequence numbers of samples, one set for each CPU.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use acceptd_common::Counter;
use aya_ebpf::{macros::map, maps::PerCpuArray};

/// One slot for each [`Counter`]. Programs add to it atomically: a program can be preempted by another one on
/// the same CPU.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// The next sequence number of each CPU.
#[map]
static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Adds one to `counter` on this CPU.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a non-null map value of eight bytes.
        add_to(unsafe { &mut *value }, 1);
    }
}

/// Adds `value` to a word of a map value that other programs may add to at the same time.
#[inline(always)]
pub fn add_to(word: &mut u64, value: u64) {
    // SAFETY: a reference to a whole word.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, value) };
}

/// Takes the next sequence number of this CPU. The add must fetch: with a plain increment, two programs of
/// which one preempts the other would get the same number. Not `Relaxed`: for that ordering LLVM emits the
/// add without `BPF_FETCH` even where its result is used, so each event would get the operand, 1. Seen
/// with LLVM 22.1.4 and again with 23.1.4, where all 24 fetching adds of the object lost the flag.
#[inline(always)]
pub fn next_sequence() -> u64 {
    match SEQUENCE.get_ptr_mut(0) {
        // SAFETY: a non-null map value of eight bytes.
        Some(value) => unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(value, 1) },
        None => 0,
    }
}
