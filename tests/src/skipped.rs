//! How often the kernel skipped the programs that are loaded now: its own counts, which no agent is asked
//! for.

use std::{collections::BTreeMap, fmt, os::fd::AsFd as _};

use acceptd::bpf::program_stats::ProgramStats;
use aya::programs::loaded_programs;

/// Skipped runs by program, of those that were skipped. Names are the kernel's, of at most 15 bytes.
#[derive(Debug, Default)]
pub struct KernelSkips(BTreeMap<String, u64>);

impl KernelSkips {
    /// The counts of all tracing programs of this host.
    #[must_use]
    pub fn of_loaded_programs() -> Self {
        let mut skipped = BTreeMap::new();
        for program in loaded_programs().filter_map(Result::ok) {
            let Ok(fd) = program.fd() else { continue };
            let count = ProgramStats::from_fd(fd.as_fd()).recursion_misses.unwrap_or_default();
            if count > 0 {
                let name = program.name_as_str().unwrap_or("?").to_owned();
                *skipped.entry(name).or_default() += count;
            }
        }
        Self(skipped)
    }
}

/// The program that was skipped most often comes first.
impl fmt::Display for KernelSkips {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let words: Vec<_> = sorted.iter().map(|(name, count)| format!("{name} {count}")).collect();
        out.write_str(if words.is_empty() { "none" } else { "" })?;
        out.write_str(&words.join(", "))
    }
}
