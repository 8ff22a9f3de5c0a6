//! What can be known of one process: the kernel's facts, completed from `/proc` while the process lives. Nothing here waits for
//! the process.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use acceptd_common::{Task, limits::EXE_LEN};
use acceptd_otlp::{Details, Process};
use foldhash::fast::RandomState;
use jiff::Timestamp;
use quick_cache::{
    UnitWeighter,
    unsync::{Cache, DefaultLifecycle},
};
use zerocopy::FromZeros as _;

use super::{
    cgroup::{
        Placement, {self},
    },
    details,
    folder::{Folder, NANOS_PER_TICK, Namespaces},
    passwd::Users,
    until_nul,
};
use crate::config::Detail;

/// What the kernel adds to the link of an executable that was removed or replaced (`fs/d_path.c`).
const DELETED: &[u8] = b" (deleted)";

/// Most bytes of `/proc/PID/cgroup`: a line for each hierarchy, and a path has at most 4096.
const CGROUP: u64 = 64 << 10;

/// Inode number of the host's first pid namespace (`include/linux/proc_ns.h`).
const INIT_PID_NAMESPACE: &[u8] = b"pid:[4026531836]";

/// Cgroups that are remembered, so that a process that is gone is still known to have been in its container.
const CGROUPS: usize = 1024;

/// Completes the kernel's facts.
#[derive(Debug)]
pub struct Observer {
    /// Where processes have the pids that the kernel gives, if anywhere.
    proc: Option<PathBuf>,
    /// Where cgroups of version 2 are.
    cgroups: PathBuf,
    /// By the id of cgroup v2.
    placements: Cache<u64, Placement, UnitWeighter, RandomState>,
    users: Users,
    /// User and mount namespace of the host, in which a uid has the host's name.
    host_namespaces: Option<Namespaces>,
}

impl Observer {
    /// An observer of this host's processes. `root` is where the host's files are (`host.root`), `cgroups` where those of cgroup
    /// v2 are.
    #[must_use]
    pub fn new(root: &Path, cgroups: &Path) -> Self {
        let proc = proc_of_host(root);
        let namespaces = |pid| proc.as_ref().and_then(|proc| Folder::open(proc, pid).ok()?.namespaces());
        let host_namespaces = namespaces(1).or_else(|| namespaces(std::process::id()));
        Self {
            proc,
            cgroups: cgroups.to_owned(),
            placements: Cache::with(
                CGROUPS,
                CGROUPS as u64,
                UnitWeighter,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            users: Users::of_host(root),
            host_namespaces,
        }
    }

    /// Where the kernel's pids can be looked up; nowhere in a container that sees only its own processes.
    #[must_use]
    pub fn proc(&self) -> Option<&Path> {
        self.proc.as_deref()
    }

    /// The process of `task`. What cannot be known any more is absent: a process that is gone, or whose pid
    /// belongs to another one by now, has what the kernel said at the accept and no more.
    pub fn observe(&mut self, task: &Task, boot_time_unix_ns: u64) -> Process {
        let folder = self.proc.as_ref().and_then(|proc| Folder::of(proc, task.tgid, task.leader_start_ns));
        let path = folder.as_ref().and_then(|folder| Some(without_deleted(folder.link("exe")?)));
        let path = path.filter(|path| is_of(task, path));
        let placement = self.placement(task.cgroup_id, folder.as_ref());
        let namespaces = folder.as_ref().and_then(Folder::namespaces);
        let is_in_hosts = namespaces.is_some() && namespaces == self.host_namespaces;
        Process {
            pid: task.tgid,
            creation_time: rfc3339_millis(boot_time_unix_ns.saturating_add(task.leader_start_ns)),
            executable_name: executable_name(task, path.as_deref()),
            executable_path: path,
            user_id: task.euid,
            real_user_id: (task.uid != task.euid).then_some(task.uid),
            owner: is_in_hosts.then(|| self.users.name(task.euid).map(str::to_owned)).flatten(),
            kernel_thread: task.kernel_thread != 0,
            container_id: placement.container_id,
            pod_uid: placement.pod_uid,
            unit: placement.service,
            // Not without waiting for the process.
            details: Details::default(),
        }
    }

    /// What is wanted of a process that lets itself be waited for: the agent.
    pub(super) fn details(&self, pid: u32, wanted: &[Detail]) -> Details {
        let folder = self.proc.as_ref().and_then(|proc| Folder::open(proc, pid).ok());
        folder.map(|folder| details::of(&folder, wanted)).unwrap_or_default()
    }

    /// By the process, or by what was found of others in the same cgroup.
    fn placement(&mut self, cgroup_id: u64, folder: Option<&Folder>) -> Placement {
        if let Some(known) = self.placements.get(&cgroup_id) {
            return known.clone();
        }
        let Some(text) = folder.and_then(|folder| folder.read("cgroup", CGROUP)) else {
            return Placement::default();
        };
        let placement = cgroup::placement(&text);
        let known =
            cgroup::telling_path(&text).filter(|_| cgroup_id != 0).and_then(|path| self.cgroup_at(path));
        match known {
            Some(id) if id == cgroup_id => self.placements.insert(cgroup_id, placement.clone()),
            // It was moved since.
            Some(_) => return Placement::default(),
            None => {}
        }
        placement
    }

    /// The id of a cgroup. Nothing is at a path that is shown to somebody in a cgroup namespace.
    fn cgroup_at(&self, path: &str) -> Option<u64> {
        Some(fs::metadata(self.cgroups.join(path.trim_start_matches('/'))).ok()?.ino())
    }

    /// The agent itself.
    pub fn observe_self(&mut self, boot_time_unix_ns: u64) -> Process {
        // In the host's pid namespace, where it can be seen.
        let known = self.proc.as_ref().and_then(|proc| fs::read_link(proc.join("self")).ok());
        let known = known.and_then(|link| link.to_str()?.parse().ok());
        let pid = known.unwrap_or_else(std::process::id);
        let mut task = Task::new_zeroed();
        task.tgid = pid;
        task.euid = rustix::process::geteuid().as_raw();
        task.uid = rustix::process::getuid().as_raw();
        let proc = self.proc.as_deref().unwrap_or(Path::new("/proc"));
        let started = Folder::open(proc, pid).ok().and_then(|folder| folder.started());
        task.leader_start_ns = started.unwrap_or_default() * NANOS_PER_TICK;
        let path = std::env::current_exe().unwrap_or_default();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let length = name.len().min(EXE_LEN - 1);
        task.exe[..length].copy_from_slice(&name[..length]);
        task.exe_len = u32::try_from(length).unwrap_or_default();
        self.observe(&task, boot_time_unix_ns)
    }
}

/// Where processes have the pids that the kernel gives: in `/proc`, or, for an agent in a pid namespace of its own, in the
/// host's.
#[must_use]
pub fn proc_of_host(root: &Path) -> Option<PathBuf> {
    [PathBuf::from("/proc"), root.join("proc")].into_iter().find(|proc| is_of_host(proc))
}

/// Whether the pids there are those of the host, which are the kernel's own: in its first pid namespace 2 is the parent of the
/// kernel's threads.
fn is_of_host(proc: &Path) -> bool {
    let namespace = Folder::open(proc, 1).ok().and_then(|folder| folder.link("ns/pid"));
    let second = Folder::open(proc, 2).ok().and_then(|folder| folder.read("comm", 16));
    match namespace {
        Some(namespace) => namespace == INIT_PID_NAMESPACE,
        // Of pid 1 it is not shown to everybody.
        None => second.as_deref() == Some(b"kthreadd\n"),
    }
}

/// Whether the path is of the executable that ran at the accept: the process may have called exec since.
fn is_of(task: &Task, path: &[u8]) -> bool {
    let name = kernel_name(task);
    if name.len() == EXE_LEN - 1 { basename(path).starts_with(name) } else { basename(path) == name }
}

/// The basename that the kernel captured; cut when it fills the field.
fn kernel_name(task: &Task) -> &[u8] {
    let length = usize::try_from(task.exe_len).unwrap_or(0).min(EXE_LEN);
    until_nul(&task.exe[..length])
}

fn executable_name(task: &Task, path: Option<&[u8]>) -> Vec<u8> {
    if task.kernel_thread != 0 {
        return [b"[", until_nul(&task.leader_comm), b"]"].concat();
    }
    let name = path.map_or_else(|| kernel_name(task), basename);
    // An executable whose name could not be read still has a process name.
    if name.is_empty() { until_nul(&task.leader_comm).to_vec() } else { name.to_vec() }
}

fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

pub(super) fn without_deleted(path: Vec<u8>) -> Vec<u8> {
    path.strip_suffix(DELETED).map(<[u8]>::to_vec).unwrap_or(path)
}

fn rfc3339_millis(unix_ns: u64) -> Option<String> {
    let time = Timestamp::from_nanosecond(i128::from(unix_ns)).ok()?;
    Some(format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn observer() -> Observer {
        Observer::new(Path::new("/"), Path::new("/sys/fs/cgroup"))
    }

    fn task_of(pid: u32) -> Task {
        let folder = Folder::open(Path::new("/proc"), pid).expect("the process lives");
        let mut task = Task::new_zeroed();
        task.tgid = pid;
        task.leader_start_ns = folder.started().expect("a start time") * NANOS_PER_TICK + 123;
        task
    }

    fn with_exe(mut task: Task, name: &[u8]) -> Task {
        task.exe[..name.len()].copy_from_slice(name);
        task.exe_len = u32::try_from(name.len()).expect("short");
        task
    }

    fn own_name() -> Vec<u8> {
        let path = std::env::current_exe().expect("a test binary has a path");
        path.file_name().expect("a file").as_bytes().to_vec()
    }

    #[test]
    fn a_living_process_is_completed() {
        let name = own_name();
        let process = observer().observe(&with_exe(task_of(std::process::id()), &name), 0);
        assert_eq!(process.executable_name, name);
        let expected = std::env::current_exe().expect("a path");
        assert_eq!(process.executable_path.as_deref(), Some(expected.as_os_str().as_bytes()));
        assert_eq!(process.owner.as_deref(), Some("root"), "the tests' uid field is 0");
    }

    #[test]
    fn a_reused_pid_gives_nothing_away() {
        let mut task = with_exe(task_of(std::process::id()), b"somebody-else");
        task.leader_start_ns -= 10 * NANOS_PER_TICK;
        let process = observer().observe(&task, 0);
        assert_eq!(process.executable_name, b"somebody-else");
        assert_eq!((process.executable_path, process.owner), (None, None));
    }

    #[test]
    fn an_exec_since_the_accept_hides_the_new_path() {
        let process = observer().observe(&with_exe(task_of(std::process::id()), b"before-exec"), 0);
        assert_eq!(process.executable_name, b"before-exec");
        assert_eq!(process.executable_path, None);
    }

    #[test]
    fn a_process_that_is_gone_keeps_the_kernels_facts() {
        let mut task = with_exe(Task::new_zeroed(), b"short-lived");
        task.tgid = u32::MAX;
        task.euid = 33;
        task.uid = 0;
        let process = observer().observe(&task, 1_700_000_000_123_000_000);
        assert_eq!(process.executable_name, b"short-lived");
        assert_eq!((process.user_id, process.real_user_id), (33, Some(0)));
        assert_eq!(process.creation_time.as_deref(), Some("2023-11-14T22:13:20.123Z"));
    }

    #[test]
    fn a_kernel_thread_is_named_in_brackets() {
        let mut task = Task::new_zeroed();
        task.kernel_thread = 1;
        task.leader_comm[..4].copy_from_slice(b"nfsd");
        task.tgid = u32::MAX;
        assert_eq!(observer().observe(&task, 0).executable_name, b"[nfsd]");
    }

    #[test]
    fn a_deleted_executable_keeps_its_name() {
        assert_eq!(without_deleted(b"/usr/sbin/nginx (deleted)".to_vec()), b"/usr/sbin/nginx");
        assert_eq!(without_deleted(b"/usr/sbin/nginx".to_vec()), b"/usr/sbin/nginx");
    }
}
