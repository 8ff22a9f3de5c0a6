//! `/proc/PID` of one process. The folder is opened once: whatever is read through it is of that process or of none, also when
//! its pid belongs to another one by now (`proc_pid_make_inode`, fs/proc/base.c).

use std::{
    fs::File,
    io::{
        Read as _, {self},
    },
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};

/// `/proc/PID/stat` counts in `USER_HZ`, which is 100 on every architecture that acceptd runs on.
pub(super) const NANOS_PER_TICK: u64 = 10_000_000;

/// Most bytes of `/proc/PID/stat`; a longer one is cut, and what is looked for is before that.
const STAT: u64 = 4096;

/// User and mount namespace, as `/proc` names them.
pub(super) type Namespaces = [Vec<u8>; 2];

/// A process's folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// That of a process under `proc`.
    pub(super) fn open(proc: &Path, pid: u32) -> io::Result<Self> {
        let path = proc.join(pid.to_string());
        Ok(Self(openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// The folder, if it is of the process that was started then.
    pub(super) fn of(proc: &Path, pid: u32, leader_start_ns: u64) -> Option<Self> {
        let folder = Self::open(proc, pid).ok()?;
        (folder.started()? == leader_start_ns / NANOS_PER_TICK).then_some(folder)
    }

    /// When it was started, in ticks since boot.
    pub(super) fn started(&self) -> Option<u64> {
        behind_name(&self.read("stat", STAT)?, STARTED)
    }

    /// Its parent, in the pid namespace of the folder's `/proc`; none where that is outside.
    pub(super) fn parent(&self) -> Option<u32> {
        Some(behind_name(&self.read("stat", STAT)?, PARENT)?.try_into().ok()?).filter(|pid| *pid != 0)
    }

    /// Where its arguments are in its memory; 0 where that is not shown.
    pub(super) fn arg_start(&self) -> u64 {
        self.read("stat", STAT).and_then(|stat| behind_name(&stat, ARG_START)).unwrap_or_default()
    }

    /// Where a link leads.
    pub(super) fn link(&self, name: &str) -> Option<Vec<u8>> {
        Some(readlinkat(&self.0, name, Vec::new()).ok()?.into_bytes())
    }

    /// The namespaces in which a user id has a name.
    pub(super) fn namespaces(&self) -> Option<Namespaces> {
        Some([self.link("ns/user")?, self.link("ns/mnt")?])
    }

    /// A file's content, at most so many bytes of it.
    pub(super) fn read(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        self.file(name).ok()?.take(limit).read_to_end(&mut content).ok()?;
        Some(content)
    }

    /// A file.
    pub(super) fn file(&self, name: &str) -> io::Result<File> {
        Ok(openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }
}

/// Fields 4, 22 and 48 of `/proc/PID/stat`, counted behind the name.
const PARENT: usize = 1;
const STARTED: usize = 19;
const ARG_START: usize = 45;

/// A number of `/proc/PID/stat`. The name in field 2 may hold any byte, also `)`: count from the last one.
fn behind_name(stat: &[u8], field: usize) -> Option<u64> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(after_name + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_any_name() {
        let rest = "S 3 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 98765 0 0";
        let stat = format!("7 (a) b) (c) {rest}");
        assert_eq!(behind_name(stat.as_bytes(), STARTED), Some(98_765));
        assert_eq!(behind_name(stat.as_bytes(), PARENT), Some(3));
        assert_eq!(behind_name(b"7 (a", STARTED), None);
        assert_eq!(behind_name(b"7 (a) S 1", STARTED), None);
    }

    #[test]
    fn a_folder_is_of_one_process_only() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it starts");
        let folder = Folder::open(Path::new("/proc"), child.id()).expect("it lives");
        let started = folder.started().expect("a time");
        assert!(Folder::of(Path::new("/proc"), child.id(), started * NANOS_PER_TICK + 1).is_some());
        assert!(Folder::of(Path::new("/proc"), child.id(), (started + 1) * NANOS_PER_TICK).is_none());
        child.kill().expect("it lives");
        child.wait().expect("a child");
        assert_eq!((folder.started(), folder.link("exe")), (None, None), "it is gone");
    }
}
