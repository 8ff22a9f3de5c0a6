//! A limit on how often something may happen for each listener and second.

use aya_ebpf::maps::LruHashMap;

use crate::uapi::BPF_NOEXIST;

const SECOND_NS: u64 = 1_000_000_000;

/// Inode of a listener → the second (boot clock) that the budget is for, and how much of it is used.
/// Listeners that were used least recently are evicted and start again with a full budget.
pub type Budgets = LruHashMap<u64, [u64; 2]>;

/// Takes one from the budget of `listener` at `now` (boot clock, ns). Returns `false` when `limit` is used up
/// for this second; the caller counts that. Two programs may both take the last one: the budget bounds the
/// volume; it does not count.
#[inline(always)]
pub fn try_take(budgets: &Budgets, listener: u64, limit: u64, now: u64) -> bool {
    let this_second = now / SECOND_NS;
    let Some(budget) = budgets.get_ptr_mut(&listener) else {
        // If another CPU inserts first, its entry stays.
        let _ = budgets.insert(&listener, &[this_second, 1], BPF_NOEXIST);
        return limit > 0;
    };
    // SAFETY: a non-null map value of two words.
    let [second, used] = unsafe { &mut *budget };
    if *second != this_second {
        *second = this_second;
        *used = 0;
    }
    *used += 1;
    *used <= limit
}
