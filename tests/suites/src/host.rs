//! Facts about the host: free ports, the boot time and processes.

use std::{
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};

/// The unit of start times in /proc: 1 / `USER_HZ`, the same on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Whether `::1` can be bound.
pub(crate) fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// A port that is free on 127.0.0.1, and on `::1` if the host has it, at the time of the call.
pub(crate) fn free_port() -> Result<u16> {
    let ipv6 = has_ipv6();
    for _ in 0..64 {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
        let port = v4.local_addr()?.port();
        if !ipv6 || TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free on both 127.0.0.1 and ::1")
}

/// Whether a port can be bound on 127.0.0.1.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether a socket listens on a port of 127.0.0.1 in the network namespace of a process, by /proc.
/// Connecting to find out would add an accept.
pub(crate) fn listens(pid: u32, port: u16) -> Result<bool> {
    // proc_pid_net(5): local address and state in hexadecimal, the address in host byte order; 0A is LISTEN.
    let wanted = format!(": 0100007F:{port:04X} 00000000:0000 0A ");
    let path = format!("/proc/{pid}/net/tcp");
    let table = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(table.contains(&wanted))
}

/// A running worker of the workload, as /proc shows it.
pub(crate) struct WorkerProcess {
    pub(crate) executable: PathBuf,
    /// The effective user id.
    pub(crate) user_id: u32,
    /// The start time since the epoch, with a resolution of 10 ms.
    pub(crate) started: Duration,
}

/// Reads a running process from /proc.
pub(crate) fn worker_process(pid: u32) -> Result<WorkerProcess> {
    let about = || format!("process {pid}");
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).with_context(about)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(about)?;
    let user_id = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok())
        .with_context(|| format!("/proc/{pid}/status has no effective user id"))?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(about)?;
    // The name in parentheses may contain any character, so fields are counted from the last parenthesis:
    // starttime is field 22, the 20th behind the name (proc_pid_stat(5)).
    let ticks: u32 = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        .with_context(|| format!("/proc/{pid}/stat has no start time"))?;
    Ok(WorkerProcess { executable, user_id, started: boot_time()? + TICK * ticks })
}

/// The time of the boot since the epoch. `btime` of /proc/stat is not used: it is truncated to whole seconds.
fn boot_time() -> Result<Duration> {
    let boot_clock = clock_gettime(ClockId::Boottime);
    let since_boot = Duration::new(boot_clock.tv_sec.try_into()?, boot_clock.tv_nsec.try_into()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    now.checked_sub(since_boot).context("the clock is before the boot")
}
