//! How often something may happen for each listener and second.

use aya_ebpf::maps::LruHashMap;

const SECOND_NS: u64 = 1_000_000_000;
/// `BPF_NOEXIST`, include/uapi/linux/bpf.h
const NEW: u64 = 1;

/// Whether it may happen once more at `now` (boot clock, ns). Two programs may both take the last place: the budget is a bound on
/// volume, not a count, and what it refuses is counted by the caller.
#[inline(always)]
pub fn allows(budgets: &LruHashMap<u64, [u64; 2]>, listener: u64, most: u64, now: u64) -> bool {
    let this_second = now / SECOND_NS;
    let Some(budget) = budgets.get_ptr_mut(&listener) else {
        // Another CPU may add it first, for one of its own.
        let _ = budgets.insert(&listener, &[this_second, 1], NEW);
        return most > 0;
    };
    // SAFETY: a non-null map value of two words.
    let [second, used] = unsafe { &mut *budget };
    if *second != this_second {
        *second = this_second;
        *used = 0;
    }
    *used += 1;
    *used <= most
}
