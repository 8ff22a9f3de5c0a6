//! Reads the eBPF programs' counters, summed over all CPUs.

use acceptd_common::Counter;
use aya::maps::{MapData, MapError, PerCpuArray};

/// The values of all counters since the programs were loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelCounts([u64; Counter::COUNT as usize]);

impl KernelCounts {
    /// The value of one counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Sets one counter, for tests.
    #[cfg(test)]
    pub(crate) fn with(mut self, counter: Counter, value: u64) -> Self {
        self.0[counter as usize] = value;
        self
    }
}

/// The per-CPU map of counters.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self(map)
    }

    /// Reads all counters, one after the other. A counter that is read later may already include newer
    /// events.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn read(&self) -> Result<KernelCounts, MapError> {
        let mut counts = KernelCounts::default();
        for (index, count) in (0..).zip(&mut counts.0) {
            *count = self.0.get(&index, 0)?.iter().sum();
        }
        Ok(counts)
    }
}
