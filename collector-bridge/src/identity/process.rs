//! Observes one process: the facts that the kernel captured, completed from `/proc` while the process lives.
//! Never waits for the process.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use acceptd_common::{
    Task,
    limits::{COMM_LEN, EXE_LEN},
};
use acceptd_otlp::{Process, ProcessDetails};
use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    unsync::{Cache, DefaultLifecycle},
};
use zerocopy::FromZeros as _;

use super::{
    c_string::until_nul,
    cgroup::{self, Placement},
    details,
    passwd::Users,
    proc_dir::{NANOS_PER_TICK, Namespaces, ProcDir, host_proc},
};
use crate::{
    bpf::kernel_path::{basename, without_deleted},
    clock,
    config::Detail,
};

/// Most bytes read of `/proc/PID/cgroup`: it has one line for each hierarchy, and a path has at most 4096
/// bytes.
const MAX_CGROUP_BYTES: u64 = 64 << 10;

/// Number of cached cgroups. The cache also places a process that has exited already, if another process of
/// the same cgroup was observed before.
const CGROUPS: usize = 1024;

/// Number of cached executables.
const EXECUTABLES: usize = 1024;

/// An executable, as the kernel's facts about a process identify it. A server that starts a process for each
/// connection is often too fast to be observed; then another process of the same executable has the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ExecutableKey {
    cgroup_id: u64,
    inode: u64,
    name: [u8; EXE_LEN],
}

impl ExecutableKey {
    fn from_task(task: &Task) -> Option<Self> {
        let is_known = task.exe_inode != 0 && task.cgroup_id != 0 && task.exe_len != 0;
        is_known.then_some(Self { cgroup_id: task.cgroup_id, inode: task.exe_inode, name: task.exe })
    }
}

/// The facts that processes of one executable in one cgroup share.
#[derive(Debug, Clone)]
struct KnownExecutable {
    path: Vec<u8>,
    /// Whether the processes are in the host's user and mount namespace.
    is_in_host_namespaces: bool,
}

/// Completes the kernel's facts about processes, and caches what processes of one cgroup share.
#[derive(Debug)]
pub struct Observer {
    /// The `/proc` that shows the kernel's own pids, if there is one.
    proc: Option<PathBuf>,
    /// Where the cgroup v2 file system is mounted.
    cgroups: PathBuf,
    /// Placement by the id of the cgroup (v2).
    placements: Cache<u64, Placement, UnitWeighter, RandomState>,
    /// The executables of processes that were observed while they ran.
    executables: Cache<ExecutableKey, KnownExecutable, UnitWeighter, RandomState>,
    users: Users,
    /// The host's user and mount namespace: only in these a uid has the name in the host's passwd file.
    host_namespaces: Option<Namespaces>,
}

impl Observer {
    /// An observer of this host's processes. `root` is where the host's files are (`host.root`), `cgroups`
    /// where the host's cgroup v2 file system is mounted.
    #[must_use]
    pub fn new(root: &Path, cgroups: &Path) -> Self {
        let proc = host_proc(root);
        let namespaces = |pid| proc.as_ref().and_then(|proc| ProcDir::open(proc, pid).ok()?.namespaces());
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
            executables: Cache::with(
                EXECUTABLES,
                EXECUTABLES as u64,
                UnitWeighter,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            users: Users::from_host_root(root),
            host_namespaces,
        }
    }

    /// The `/proc` that shows the kernel's own pids; `None` in a container that sees only its own processes.
    #[must_use]
    pub fn proc(&self) -> Option<&Path> {
        self.proc.as_deref()
    }

    /// Observes the process of `task`. `boot_time_unix_ns` is the wall-clock time of the boot. A process that
    /// has exited, or whose pid was reused, has only the facts that the kernel captured at the accept, and
    /// those that another process of the same executable in the same cgroup had.
    pub fn observe(&mut self, task: &Task, boot_time_unix_ns: u64) -> Process {
        self.observe_and_check(task, boot_time_unix_ns).0
    }

    /// Like [`Self::observe`]; also whether the process still runs the same executable.
    pub(super) fn observe_and_check(&mut self, task: &Task, boot_time_unix_ns: u64) -> (Process, bool) {
        let dir = self
            .proc
            .as_ref()
            .and_then(|proc| ProcDir::open_if_started_at(proc, task.tgid, task.leader_start_ns));
        let path = dir.as_ref().and_then(|dir| Some(without_deleted(&dir.link("exe")?).to_vec()));
        let path = path.filter(|path| matches_executable(task, path));
        let placement = self.placement(task.cgroup_id, dir.as_ref());
        let namespaces = dir.as_ref().and_then(ProcDir::namespaces);
        let is_in_host_namespaces = namespaces.is_some() && namespaces == self.host_namespaces;
        let is_running = path.is_some();
        let key = ExecutableKey::from_task(task);
        let known = match (path, key) {
            (Some(path), Some(key)) => {
                let known = KnownExecutable { path, is_in_host_namespaces };
                self.executables.insert(key, known.clone());
                Some(known)
            }
            (Some(path), None) => Some(KnownExecutable { path, is_in_host_namespaces }),
            (None, Some(key)) => self.executables.get(&key).cloned(),
            (None, None) => None,
        };
        // A process whose user changed its namespaces is still there to be asked.
        let is_in_host_namespaces = if namespaces.is_some() {
            is_in_host_namespaces
        } else {
            known.as_ref().is_some_and(|known| known.is_in_host_namespaces)
        };
        let path = known.map(|known| known.path);
        let name = executable_name(task, path.as_deref());
        let process = Process {
            pid: task.tgid,
            creation_time: clock::rfc3339(boot_time_unix_ns.saturating_add(task.leader_start_ns)),
            title: title(task, &name),
            executable_name: name,
            executable_path: path,
            user_id: task.euid,
            real_user_id: (task.uid != task.euid).then_some(task.uid),
            owner: is_in_host_namespaces.then(|| self.users.name(task.euid).map(str::to_owned)).flatten(),
            kernel_thread: task.kernel_thread != 0,
            container_id: placement.container_id,
            pod_uid: placement.pod_uid,
            unit: placement.service,
            // Details are in the process's memory; reading that can block (`reader.rs`).
            details: ProcessDetails::default(),
        };
        (process, is_running)
    }

    /// The details of the agent itself. Reading the agent's own memory cannot block.
    pub(super) fn details(&self, pid: u32, wanted: &[Detail]) -> ProcessDetails {
        let dir = self.proc.as_ref().and_then(|proc| ProcDir::open(proc, pid).ok());
        dir.map(|dir| details::read_details(&dir, wanted)).unwrap_or_default()
    }

    /// The placement of a process: cached from another process in the same cgroup, or read from the process's
    /// directory.
    fn placement(&mut self, cgroup_id: u64, dir: Option<&ProcDir>) -> Placement {
        if let Some(known) = self.placements.get(&cgroup_id) {
            return known.clone();
        }
        let Some(text) = dir.and_then(|dir| dir.read("cgroup", MAX_CGROUP_BYTES)) else {
            return Placement::default();
        };
        let placement = cgroup::parse_placement(&text);
        let known = cgroup::conclusive_v2_path(&text)
            .filter(|_| cgroup_id != 0)
            .and_then(|path| self.cgroup_at(path));
        match known {
            Some(id) if id == cgroup_id => self.placements.insert(cgroup_id, placement.clone()),
            // The process was moved to another cgroup after the accept.
            Some(_) => return Placement::default(),
            None => {}
        }
        placement
    }

    /// The id of the cgroup at a path; `None` if there is no such cgroup, as for a path that is relative to a
    /// cgroup namespace.
    fn cgroup_at(&self, path: &str) -> Option<u64> {
        Some(fs::metadata(self.cgroups.join(path.trim_start_matches('/'))).ok()?.ino())
    }

    /// Observes the agent itself. `boot_time_unix_ns` is the wall-clock time of the boot.
    pub fn observe_self(&mut self, boot_time_unix_ns: u64) -> Process {
        // The agent's pid in the host's pid namespace, if that is visible.
        let known = self.proc.as_ref().and_then(|proc| fs::read_link(proc.join("self")).ok());
        let known = known.and_then(|link| link.to_str()?.parse().ok());
        let pid = known.unwrap_or_else(std::process::id);
        let mut task = Task::new_zeroed();
        task.tgid = pid;
        task.euid = rustix::process::geteuid().as_raw();
        task.uid = rustix::process::getuid().as_raw();
        let proc = self.proc.as_deref().unwrap_or(Path::new("/proc"));
        let started = ProcDir::open(proc, pid).ok().and_then(|dir| dir.started());
        task.leader_start_ns = started.unwrap_or_default() * NANOS_PER_TICK;
        let path = std::env::current_exe().unwrap_or_default();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let length = name.len().min(EXE_LEN - 1);
        task.exe[..length].copy_from_slice(&name[..length]);
        task.exe_len = u32::try_from(length).unwrap_or_default();
        self.observe(&task, boot_time_unix_ns)
    }
}

/// Whether the path has the name of the executable that ran at the accept; the process may have called exec
/// since.
fn matches_executable(task: &Task, path: &[u8]) -> bool {
    let name = kernel_name(task);
    if name.len() == EXE_LEN - 1 { basename(path).starts_with(name) } else { basename(path) == name }
}

/// The base name that the kernel captured; truncated if it fills the field.
fn kernel_name(task: &Task) -> &[u8] {
    let length = usize::try_from(task.exe_len).unwrap_or(0).min(EXE_LEN);
    until_nul(&task.exe[..length])
}

fn executable_name(task: &Task, path: Option<&[u8]>) -> Vec<u8> {
    if task.kernel_thread != 0 {
        return [b"[", until_nul(&task.leader_comm), b"]"].concat();
    }
    let name = path.map_or_else(|| kernel_name(task), basename);
    // Without the name of the executable, use the name of the process.
    if name.is_empty() { until_nul(&task.leader_comm).to_vec() } else { name.to_vec() }
}

/// The comm of the process, unless that is only the beginning of the executable's name.
pub(super) fn title(task: &Task, executable_name: &[u8]) -> Option<Vec<u8>> {
    let comm = until_nul(&task.leader_comm);
    let is_cut = comm.len() == COMM_LEN - 1;
    let says_more = if is_cut { !executable_name.starts_with(comm) } else { executable_name != comm };
    (task.kernel_thread == 0 && !comm.is_empty() && says_more).then(|| comm.to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn observer() -> Observer {
        Observer::new(Path::new("/"), Path::new("/sys/fs/cgroup"))
    }

    fn task_of(pid: u32) -> Task {
        let dir = ProcDir::open(Path::new("/proc"), pid).expect("the process lives");
        let mut task = Task::new_zeroed();
        task.tgid = pid;
        task.leader_start_ns = dir.started().expect("a start time") * NANOS_PER_TICK + 123;
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
    fn a_reused_pid_adds_no_facts() {
        let mut task = with_exe(task_of(std::process::id()), b"another-server");
        task.leader_start_ns -= 10 * NANOS_PER_TICK;
        let process = observer().observe(&task, 0);
        assert_eq!(process.executable_name, b"another-server");
        assert_eq!((process.executable_path, process.owner), (None, None));
    }

    #[test]
    fn an_exec_since_the_accept_hides_the_new_path() {
        let process = observer().observe(&with_exe(task_of(std::process::id()), b"before-exec"), 0);
        assert_eq!(process.executable_name, b"before-exec");
        assert_eq!(process.executable_path, None);
    }

    #[test]
    fn an_exited_process_keeps_the_kernels_facts() {
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
    fn another_process_of_the_executable_tells_the_path() {
        let mut observer = observer();
        let mut living = with_exe(task_of(std::process::id()), &own_name());
        (living.cgroup_id, living.exe_inode) = (7, 77);
        let path = observer.observe(&living, 0).executable_path;
        assert!(path.is_some());
        let mut gone = with_exe(Task::new_zeroed(), &own_name());
        (gone.tgid, gone.cgroup_id, gone.exe_inode) = (u32::MAX, 7, 77);
        let (process, is_running) = observer.observe_and_check(&gone, 0);
        assert_eq!((process.executable_path, is_running), (path, false));
        assert_eq!(process.owner.as_deref(), Some("root"), "the owner is that of its own user id");
        for change in [|task: &mut Task| task.cgroup_id = 8, |task: &mut Task| task.exe_inode = 78] {
            let mut other = gone;
            change(&mut other);
            let process = observer.observe(&other, 0);
            assert_eq!((process.executable_path, process.owner), (None, None), "{other:?}");
        }
    }

    #[test]
    fn a_title_says_more_than_the_executable() {
        for (executable, comm, expected) in [
            (&b"redis-check-rdb"[..], &b"redis-server"[..], Some(&b"redis-server"[..])),
            (b"ruby3.1", b"puma", Some(b"puma")),
            (b"nginx", b"nginx", None),
            (b"systemd-resolved", b"systemd-resolve", None),
            (b"nginx", b"", None),
            (b"nginx", b"nginx-debug", Some(b"nginx-debug")),
            (b"nginx-debug", b"nginx", Some(b"nginx")),
        ] {
            let mut task = Task::new_zeroed();
            task.leader_comm[..comm.len()].copy_from_slice(comm);
            assert_eq!(title(&task, executable).as_deref(), expected, "{}", executable.escape_ascii());
        }
    }

    #[test]
    fn a_kernel_thread_is_named_in_brackets() {
        let mut task = Task::new_zeroed();
        task.kernel_thread = 1;
        task.leader_comm[..4].copy_from_slice(b"nfsd");
        task.tgid = u32::MAX;
        assert_eq!(observer().observe(&task, 0).executable_name, b"[nfsd]");
    }
}
