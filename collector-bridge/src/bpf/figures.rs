//! What the kernel knows of a loaded program: how often it ran, for how long, how often it could not.

use std::{
    fmt, fs, io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::sys::{Stats, enable_stats};
use serde::Serialize;

/// Has the kernel count the runs of all programs until the descriptor is closed.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn count_runs() -> io::Result<OwnedFd> {
    enable_stats(Stats::RunTime).map_err(|error| error.io_error)
}

/// Figures of one program; each is absent when the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Runs while statistics were switched on.
    pub runs: Option<u64>,
    /// Nanoseconds that they took, without the way to the program and back.
    pub run_time_ns: Option<u64>,
    /// Runs that the kernel left out because the program, or another, ran on that CPU already (recursion protection): the
    /// only loss that no counter of ours can see.
    pub recursion_misses: Option<u64>,
    /// Instructions that the verifier looked at when the program was loaded, over all paths.
    pub verified_instructions: Option<u64>,
}

impl Figures {
    /// Asks the kernel (`bpf_prog_show_fdinfo`, `kernel/bpf/syscall.c`).
    #[must_use]
    pub fn of(program: BorrowedFd<'_>) -> Self {
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

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verified_instructions {
            Some(count) => write!(out, "the verifier looked at {count} instructions"),
            None => out.write_str("the kernel does not say what the verifier looked at"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_kernel_does_not_tell_is_absent() {
        let info = "pos:\t0\nprog_type:\t26\nrun_time_ns:\t1200\nrun_cnt:\t3\n";
        let figures = Figures::parse(info);
        assert_eq!((figures.runs, figures.run_time_ns), (Some(3), Some(1200)));
        assert_eq!((figures.recursion_misses, figures.verified_instructions), (None, None));
        let newer = Figures::parse("run_cnt:\t0\nrecursion_misses:\t7\nverified_insns:\t4711\n");
        assert_eq!((newer.recursion_misses, newer.verified_instructions), (Some(7), Some(4711)));
    }
}
