//! Runs of the programs that the kernel skipped: which hooks missed events, and how many accepts no program
//! saw. Pure: the kernel's counts come from `attached.rs`.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::hooks::{self, Tier};

/// How often the kernel skipped every copy of a program, for each program. A copy makes up for a skipped run
/// of the others, so only the smallest count among them is missing.
///
/// Serialized as a map of the programs that missed something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedRuns {
    by_program: BTreeMap<&'static str, u64>,
    unseen_accepts: u64,
}

impl Serialize for SkippedRuns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.by_program().filter(|(_, count)| *count > 0))
    }
}

impl SkippedRuns {
    /// From the counts of each attached program. Copies have the name of their original.
    pub(super) fn new(counts: impl Iterator<Item = (&'static str, u64)>, tier: Tier) -> Self {
        let mut by_program = BTreeMap::new();
        for (program, count) in counts {
            by_program
                .entry(program)
                .and_modify(|least: &mut u64| *least = count.min(*least))
                .or_insert(count);
        }
        // Each accept runs through one of these lists.
        let skipped = |program: &&str| by_program.get(program).copied();
        let unseen_accepts =
            hooks::witnesses(tier).iter().filter_map(|programs| programs.iter().find_map(skipped)).sum();
        Self { by_program, unseen_accepts }
    }

    /// How often each program was skipped together with all its copies.
    pub(crate) fn by_program(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.by_program.iter().map(|(program, count)| (*program, *count))
    }

    /// The sum over all programs.
    #[must_use]
    pub(crate) fn total(&self) -> u64 {
        self.by_program.values().sum()
    }

    /// How many accepts no program saw, at most.
    #[must_use]
    pub(crate) const fn unseen_accepts(&self) -> u64 {
        self.unseen_accepts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_as_skipped_if_every_copy_was_skipped() {
        let counts =
            [("do_accept_exit", 56), ("do_accept_exit", 3), ("do_accept_exit", 0), ("sock_graft", 0)];
        let skipped = SkippedRuns::new(counts.into_iter(), Tier::One);
        assert_eq!((skipped.total(), skipped.unseen_accepts()), (0, 0));
        let counts = [("sock_graft", 7), ("inet_sock_set_state", 9), ("sock_graft", 2)];
        let skipped = SkippedRuns::new(counts.into_iter(), Tier::One);
        let by_program: Vec<_> = skipped.by_program().collect();
        assert_eq!(by_program, [("inet_sock_set_state", 9), ("sock_graft", 2)]);
        assert_eq!((skipped.total(), skipped.unseen_accepts()), (11, 2));
    }

    #[test]
    fn the_programs_that_see_each_accept_bound_the_unseen_ones() {
        let counts = [("do_accept_exit", 4), ("accept4_exit", 9)];
        assert_eq!(SkippedRuns::new(counts.into_iter(), Tier::One).unseen_accepts(), 4);
        let counts = [("sys_exit", 90), ("io_uring_complete", 3), ("inet_sock_set_state", 500)];
        assert_eq!(SkippedRuns::new(counts.into_iter(), Tier::Two).unseen_accepts(), 93);
        let counts = [("sys_exit_by_perf", 1), ("io_uring_complete", 0)];
        assert_eq!(SkippedRuns::new(counts.into_iter(), Tier::Two).unseen_accepts(), 1);
    }
}
