//! Measures the CPU time and memory of the agent itself, from `/proc/self`.

use std::{fs, time::Duration};

use rustix::param::{clock_ticks_per_second, page_size};

/// CPU time since the start, and memory now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// CPU time in user mode.
    pub(crate) user: Duration,
    /// CPU time in kernel mode. The BPF programs are not in it: the kernel charges them to the processes that
    /// they trace.
    pub(crate) system: Duration,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
}

impl Cost {
    /// The cost of this process so far. A figure that `/proc` does not show is 0.
    #[must_use]
    pub(crate) fn measure() -> Self {
        let read = |name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self::parse(&read("stat"), &read("statm"), clock_ticks_per_second(), page_size() as u64)
    }

    /// Parses `/proc/pid/stat` and `/proc/pid/statm` (`proc_pid_stat(5)`, `proc_pid_statm(5)`).
    fn parse(stat: &str, statm: &str, ticks_per_second: u64, page_bytes: u64) -> Self {
        // Field 2, the name in parentheses, may hold spaces and parentheses itself: fields are counted from
        // behind it.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |number: usize| {
            fields.get(number - 3).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default()
        };
        let time = |ticks: u64| Duration::from_millis(ticks * 1000 / ticks_per_second.max(1));
        let pages =
            statm.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        Self { user: time(ticks(14)), system: time(ticks(15)), resident: pages * page_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 10 0 0 0 250 130 0 0 20 0 4 0 100 1000 30";
        let expected = Cost {
            user: Duration::from_millis(2500),
            system: Duration::from_millis(1300),
            resident: 30 * 4096,
        };
        assert_eq!(Cost::parse(stat, "1000 30 20 5 0 300 0", 100, 4096), expected);
        assert_eq!(Cost::parse("", "", 100, 4096), Cost::default());
    }

    #[test]
    fn this_process_has_memory() {
        assert!(Cost::measure().resident > 100_000);
    }
}
