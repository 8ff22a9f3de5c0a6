//! The kernel's statistics of a loaded program: how often it ran, for how long, and how often the kernel
//! skipped it.

use std::{
    fmt, fs, io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::sys::{Stats, enable_stats};
use serde::Serialize;

/// Makes the kernel count the runs of all programs (`BPF_ENABLE_STATS`) until the returned descriptor is
/// closed.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn enable_run_stats() -> io::Result<OwnedFd> {
    enable_stats(Stats::RunTime).map_err(|error| error.io_error)
}

/// Statistics of one program. Each is `None` on kernels that do not report it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProgramStats {
    /// Runs while run statistics were enabled.
    pub runs: Option<u64>,
    /// Nanoseconds spent in those runs, without the cost of entering and leaving the program.
    pub run_time_ns: Option<u64>,
    /// Runs that the kernel skipped because this or another program was already running on that CPU
    /// (recursion protection). This is the only loss that the programs' own counters cannot see.
    pub recursion_misses: Option<u64>,
    /// Instructions that the verifier processed when the program was loaded, over all paths.
    pub verified_instructions: Option<u64>,
}

impl ProgramStats {
    /// Reads the statistics from the program's fdinfo (`bpf_prog_show_fdinfo`, `kernel/bpf/syscall.c`).
    #[must_use]
    pub fn from_fd(program: BorrowedFd<'_>) -> Self {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
        Self::parse(&info.unwrap_or_default())
    }

    fn parse(info: &str) -> Self {
        let number = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().parse().ok()
        };
        Self {
            runs: number("run_cnt"),
            run_time_ns: number("run_time_ns"),
            recursion_misses: number("recursion_misses"),
            verified_instructions: number("verified_insns"),
        }
    }
}

impl fmt::Display for ProgramStats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verified_instructions {
            Some(count) => write!(out, "the verifier processed {count} instructions"),
            None => out.write_str("the kernel does not report how many instructions the verifier processed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_an_older_kernel_lacks_are_none() {
        let info = "pos:\t0\nprog_type:\t26\nrun_time_ns:\t1200\nrun_cnt:\t3\n";
        let older = ProgramStats::parse(info);
        assert_eq!((older.runs, older.run_time_ns), (Some(3), Some(1200)));
        assert_eq!((older.recursion_misses, older.verified_instructions), (None, None));
        let newer = ProgramStats::parse("run_cnt:\t0\nrecursion_misses:\t7\nverified_insns:\t4711\n");
        assert_eq!((newer.recursion_misses, newer.verified_instructions), (Some(7), Some(4711)));
    }
}
