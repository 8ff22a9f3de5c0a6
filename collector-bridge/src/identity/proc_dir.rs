//! The directory `/proc/PID` of one process.
//!
//! The directory is opened once. Files opened through it belong to that process or fail to open, even when
//! the pid was reused since (`proc_pid_make_inode`, fs/proc/base.c).

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};

/// `/proc/PID/stat` counts in `USER_HZ`, which is 100 on every architecture that acceptd runs on.
pub(super) const NANOS_PER_TICK: u64 = 10_000_000;

/// Most bytes read of `/proc/PID/stat`. All fields that are used stand before that.
const MAX_STAT_BYTES: u64 = 4096;

/// The flag of a process whose addresses are not random (include/uapi/linux/personality.h).
const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;

/// The user and the mount namespace, as the links in `/proc/PID/ns` name them.
pub(super) type Namespaces = [Vec<u8>; 2];

/// Inode number of the host's first pid namespace (`include/linux/proc_ns.h`).
const INIT_PID_NAMESPACE: &[u8] = b"pid:[4026531836]";

/// The `/proc` that shows the kernel's own pids, or `None` if there is none: `/proc` itself, or the one under
/// `root` for an agent in a pid namespace of its own.
#[must_use]
pub(crate) fn host_proc(root: &Path) -> Option<PathBuf> {
    [PathBuf::from("/proc"), root.join("proc")].into_iter().find(|proc| shows_host_pids(proc))
}

/// Whether the pids in this `/proc` are those of the host's first pid namespace.
fn shows_host_pids(proc: &Path) -> bool {
    let namespace = ProcDir::open(proc, 1).ok().and_then(|dir| dir.link("ns/pid"));
    let second = ProcDir::open(proc, 2).ok().and_then(|dir| dir.read("comm", 16));
    match namespace {
        Some(namespace) => namespace == INIT_PID_NAMESPACE,
        // Without CAP_SYS_PTRACE the namespace of pid 1 is hidden. In the first namespace pid 2 is kthreadd.
        None => second.as_deref() == Some(b"kthreadd\n"),
    }
}

/// Whether the kernel chooses addresses at random for programs that do not refuse it.
pub(super) fn randomizes_addresses(proc: &Path) -> bool {
    std::fs::read_to_string(proc.join("sys/kernel/randomize_va_space")).is_ok_and(|mode| mode.trim() != "0")
}

/// The directory of one process.
#[derive(Debug)]
pub(super) struct ProcDir(OwnedFd);

impl ProcDir {
    /// Opens the directory of process `pid` under `proc`.
    pub(super) fn open(proc: &Path, pid: u32) -> io::Result<Self> {
        let path = proc.join(pid.to_string());
        Ok(Self(openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens the directory of process `pid`, if that process was started at `leader_start_ns` (nanoseconds
    /// since boot).
    pub(super) fn open_if_started_at(proc: &Path, pid: u32, leader_start_ns: u64) -> Option<Self> {
        let dir = Self::open(proc, pid).ok()?;
        (dir.started()? == leader_start_ns / NANOS_PER_TICK).then_some(dir)
    }

    /// When the process was started, in ticks since boot.
    pub(super) fn started(&self) -> Option<u64> {
        field_after_name(&self.read("stat", MAX_STAT_BYTES)?, STARTED)
    }

    /// The parent's pid, in the pid namespace of this `/proc`; `None` if the parent is outside of that
    /// namespace.
    pub(super) fn parent(&self) -> Option<u32> {
        Some(field_after_name(&self.read("stat", MAX_STAT_BYTES)?, PARENT)?.try_into().ok()?)
            .filter(|pid| *pid != 0)
    }

    /// The address of the arguments in the process's memory; 0 where the kernel hides it.
    pub(super) fn arg_start(&self) -> u64 {
        self.read("stat", MAX_STAT_BYTES)
            .and_then(|stat| field_after_name(&stat, ARG_START))
            .unwrap_or_default()
    }

    /// Whether the kernel chose the addresses of the process's memory at random. If that cannot be read, it
    /// is not assumed.
    pub(super) fn has_random_addresses(&self) -> bool {
        let personality = self.read("personality", 16);
        let text = personality.as_deref().and_then(|text| std::str::from_utf8(text).ok());
        let flags = text.and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
        flags.is_some_and(|flags| flags & ADDR_NO_RANDOMIZE == 0)
    }

    /// The target of a symbolic link.
    pub(super) fn link(&self, name: &str) -> Option<Vec<u8>> {
        Some(readlinkat(&self.0, name, Vec::new()).ok()?.into_bytes())
    }

    /// The namespaces that decide which name a user id has.
    pub(super) fn namespaces(&self) -> Option<Namespaces> {
        Some([self.link("ns/user")?, self.link("ns/mnt")?])
    }

    /// The content of a file, truncated at `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        self.file(name).ok()?.take(limit).read_to_end(&mut content).ok()?;
        Some(content)
    }

    /// Opens a file for reading.
    pub(super) fn file(&self, name: &str) -> io::Result<File> {
        Ok(openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }
}

// Fields 4, 22 and 48 of `/proc/PID/stat`, as indexes of the fields after the name.
const PARENT: usize = 1;
const STARTED: usize = 19;
const ARG_START: usize = 45;

/// A number in `/proc/PID/stat`. The name in field 2 may contain any byte, `)` included: fields are counted
/// after the last `)`.
fn field_after_name(stat: &[u8], field: usize) -> Option<u64> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(after_name + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_after_any_name() {
        let rest = "S 3 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 98765 0 0";
        let stat = format!("7 (a) b) (c) {rest}");
        assert_eq!(field_after_name(stat.as_bytes(), STARTED), Some(98_765));
        assert_eq!(field_after_name(stat.as_bytes(), PARENT), Some(3));
        assert_eq!(field_after_name(b"7 (a", STARTED), None);
        assert_eq!(field_after_name(b"7 (a) S 1", STARTED), None);
    }

    #[test]
    fn a_directory_belongs_to_one_process_only() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it starts");
        let dir = ProcDir::open(Path::new("/proc"), child.id()).expect("it lives");
        let started = dir.started().expect("a time");
        assert!(
            ProcDir::open_if_started_at(Path::new("/proc"), child.id(), started * NANOS_PER_TICK + 1)
                .is_some()
        );
        assert!(
            ProcDir::open_if_started_at(Path::new("/proc"), child.id(), (started + 1) * NANOS_PER_TICK)
                .is_none()
        );
        child.kill().expect("it lives");
        child.wait().expect("a child");
        assert_eq!((dir.started(), dir.link("exe")), (None, None), "it is gone");
    }
}
