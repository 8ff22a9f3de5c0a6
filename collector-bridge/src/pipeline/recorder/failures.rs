//! Turns the kernel's running totals of failed accepts into counts of one interval.

use acceptd_common::FailureKey;
use foldhash::{HashMap, HashMapExt as _};

use crate::clock;

/// Reads without a new failure after which a total is forgotten, to make room in the kernel's map.
const IDLE_READS: u32 = 60;

/// The totals that were read so far.
pub(super) struct FailureTotals {
    totals: HashMap<FailureKey, Total>,
    read_boot_ns: u64,
}

#[derive(Default)]
struct Total {
    count: u64,
    /// Reads since it last grew.
    idle_reads: u32,
}

impl FailureTotals {
    /// No totals yet. The first interval begins now.
    pub(super) fn new() -> Self {
        Self { totals: HashMap::new(), read_boot_ns: clock::now_boot_nanos() }
    }

    /// Begins a read of all totals at `now_boot_ns`: the nanoseconds since the read before.
    pub(super) fn begin_read(&mut self, now_boot_ns: u64) -> u64 {
        now_boot_ns.saturating_sub(std::mem::replace(&mut self.read_boot_ns, now_boot_ns))
    }

    /// Takes the total of one key: how many failures are new since the read before, and whether the total is
    /// idle. An idle total is forgotten here; the caller removes it from the kernel's map, too.
    pub(super) fn update(&mut self, key: &FailureKey, count: u64) -> (u64, bool) {
        let total = self.totals.entry(*key).or_default();
        let new = count.saturating_sub(total.count);
        total.count = count;
        total.idle_reads = if new == 0 { total.idle_reads + 1 } else { 0 };
        let is_idle = total.idle_reads > IDLE_READS;
        if is_idle {
            self.totals.remove(key);
        }
        (new, is_idle)
    }
}
