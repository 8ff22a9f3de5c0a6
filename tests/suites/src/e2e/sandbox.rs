//! A network namespace of its own, in which servers find their usual ports free, with empty `/run` and
//! `/var/log`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{counters::Counters, deadlines::READY};
use crate::process::{Running, until};

/// Prepares the namespaces, and keeps them until it is killed.
const HOLD: &str = "ip link set lo up && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log \
     && mkdir /run/lock && exec sleep infinity";

/// The namespaces. Dropping the value kills every process in them.
pub(super) struct Sandbox {
    holder: Running,
    /// The inode of the network namespace.
    pub(super) netns: u64,
}

impl Sandbox {
    /// Creates the namespaces; two files of this name are in `folder`.
    pub(super) fn start(folder: &Path, name: &str) -> Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "sh", "-c", HOLD]);
        let file = |end: &str| folder.join(format!("{name}.sandbox.{end}"));
        let mut holder = Running::start("a sandbox", unshare, &file("out"), &file("err"))?;
        let comm = format!("/proc/{}/comm", holder.pid());
        until("a sandbox", READY, || {
            holder.require_alive()?;
            Ok((fs::read_to_string(&comm)?.trim() == "sleep").then_some(()))
        })?;
        let netns = netns_of(holder.pid()).context("the sandbox's network namespace")?;
        Ok(Self { holder, netns })
    }

    /// A command that executes a program in the sandbox. The program keeps the command's process id.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--net", "--mount", "--target", &self.holder.pid().to_string(), "--", program]);
        nsenter
    }

    /// The path by which this process reaches a file of the sandbox.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.holder.pid()))
    }

    /// Runs `body` in a thread in the network namespace. Threads that it starts are there, too.
    pub(super) fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.holder.pid()))?;
        let inside = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering a network namespace")?;
            body()
        };
        thread::scope(|scope| scope.spawn(inside).join().map_err(|_| anyhow!("a thread died"))?)
    }

    /// The kernel's counters of the network namespace.
    pub(super) fn counters(&self) -> Result<Counters> {
        let read = |name: &str| {
            let path = format!("/proc/{}/net/{name}", self.holder.pid());
            fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        Counters::parse(&read("snmp")?, &read("netstat")?)
    }

    /// Whether a socket listens on a TCP port, or on a UNIX socket of this path. Connecting to find out would
    /// add an accept.
    pub(super) fn listens(&self, address: &str) -> Result<bool> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/net/{name}", self.holder.pid()));
        let Ok(port) = address.parse::<u16>() else {
            return Ok(read("unix")?.lines().any(|line| line.ends_with(&format!(" {address}"))));
        };
        // proc_pid_net(5): local address, remote address and state in hexadecimal; 0A is LISTEN.
        let local = format!(":{port:04X}");
        let is_listener = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|own| own.ends_with(&local)) && fields.nth(1) == Some("0A")
        };
        Ok(read("tcp")?.lines().any(is_listener) || read("tcp6")?.lines().any(is_listener))
    }

    /// The processes in the network namespace.
    pub(super) fn processes(&self) -> Result<BTreeSet<u32>> {
        let entries = fs::read_dir("/proc").context("reading /proc")?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok(pids.filter(|pid| netns_of(*pid).is_ok_and(|inode| inode == self.netns)).collect())
    }
}

fn netns_of(pid: u32) -> std::io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let own = self.holder.pid();
        for pid in self.processes().unwrap_or_default().into_iter().filter(|pid| *pid != own) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // An error means that the process is gone.
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
    }
}
