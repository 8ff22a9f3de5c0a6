//! What the tasks need to know of the host: root, free ports, clocks and processes.

use std::{
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};

/// The kernel reports start times in these units on every architecture (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Whether we may load eBPF programs.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fails with the remedy unless we are root.
pub(crate) fn require_root(task: &str) -> Result<()> {
    if !is_root() {
        bail!(
            "`cargo xtask {task}` loads eBPF programs and needs root: run it again as root, for example in `sudo -s`"
        );
    }
    Ok(())
}

/// Whether `::1` can be bound.
pub(crate) fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// A port that is free on 127.0.0.1, and on `::1` where that exists, at the time of the call.
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

/// Whether somebody listens on a port of 127.0.0.1 in a process's network, by the kernel's own table: connecting would be an accept.
pub(crate) fn listens(pid: u32, port: u16) -> Result<bool> {
    // proc_pid_net(5): local address and state in hexadecimal, the address as the CPU has it; 0A is LISTEN.
    let wanted = format!(": 0100007F:{port:04X} 00000000:0000 0A ");
    let path = format!("/proc/{pid}/net/tcp");
    let table = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(table.contains(&wanted))
}

/// What /proc says of a live process.
pub(crate) struct ProcessFacts {
    pub(crate) executable: PathBuf,
    /// Effective user id.
    pub(crate) user_id: u32,
    /// Start time since the epoch; exact to the tick of 10 ms.
    pub(crate) started: Duration,
}

/// Reads the facts of a live process.
pub(crate) fn process_facts(pid: u32) -> Result<ProcessFacts> {
    let about = || format!("process {pid}");
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).with_context(about)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(about)?;
    let user_id = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok())
        .with_context(|| format!("/proc/{pid}/status has no effective user id"))?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(about)?;
    // The name in parentheses may hold anything, so fields are counted from the last one: starttime is the 22nd of
    // all and the 20th behind it (proc_pid_stat(5)).
    let ticks: u32 = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        .with_context(|| format!("/proc/{pid}/stat has no start time"))?;
    Ok(ProcessFacts { executable, user_id, started: boot_time()? + TICK * ticks })
}

/// The time of the boot since the epoch. Not `btime` of /proc/stat, which is cut to whole seconds.
fn boot_time() -> Result<Duration> {
    let boot_clock = clock_gettime(ClockId::Boottime);
    let since_boot = Duration::new(boot_clock.tv_sec.try_into()?, boot_clock.tv_nsec.try_into()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    now.checked_sub(since_boot).context("the clock is before the boot")
}
