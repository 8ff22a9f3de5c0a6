//! What can be known of one process: the kernel's facts, completed from `/proc` while the process lives.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use acceptd_common::{Task, limits::EXE_LEN};
use acceptd_otlp::Process;
use jiff::Timestamp;
use zerocopy::FromZeros as _;

use super::{passwd::Users, until_nul};

/// `/proc/PID/stat` counts in `USER_HZ`, which is 100 on every architecture that acceptd runs on.
const NANOS_PER_TICK: u64 = 10_000_000;

/// What the kernel adds to the link of an executable that was removed or replaced (`fs/d_path.c`).
const DELETED: &[u8] = b" (deleted)";

/// Completes the kernel's facts.
#[derive(Debug)]
pub struct Observer {
    proc: PathBuf,
    users: Users,
    /// User and mount namespace of the host, in which a uid has the host's name.
    host_namespaces: Option<Namespaces>,
}

type Namespaces = [OsString; 2];

impl Observer {
    /// An observer of this host's processes. `root` is where the host's files are (`host.root`).
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let proc = PathBuf::from("/proc");
        let host_namespaces = namespaces(&proc.join("1")).or_else(|| namespaces(&proc.join("self")));
        Self { proc, users: Users::of_host(root), host_namespaces }
    }

    /// The process of `task`. What cannot be known any more is absent: a process that is gone, or whose pid
    /// belongs to another one by now, has what the kernel said at the accept and no more.
    pub fn observe(&mut self, task: &Task, boot_time_unix_ns: u64) -> Process {
        let found = self.look(task);
        let path = found.as_ref().and_then(|found| found.executable.clone());
        Process {
            pid: task.tgid,
            creation_time: rfc3339_millis(boot_time_unix_ns.saturating_add(task.leader_start_ns)),
            executable_name: executable_name(task, path.as_deref()),
            executable_path: path,
            user_id: task.euid,
            real_user_id: (task.uid != task.euid).then_some(task.uid),
            owner: match found {
                Some(Found { in_host_namespaces: true, .. }) => self.users.name(task.euid).map(str::to_owned),
                _ => None,
            },
            kernel_thread: task.kernel_thread != 0,
            service_name: None,
        }
    }

    /// The agent itself.
    pub fn observe_self(&mut self, boot_time_unix_ns: u64) -> Process {
        let pid = std::process::id();
        let mut task = Task::new_zeroed();
        task.tgid = pid;
        task.euid = rustix::process::geteuid().as_raw();
        task.uid = rustix::process::getuid().as_raw();
        let ticks = fs::read(self.proc.join(pid.to_string()).join("stat"));
        task.leader_start_ns =
            ticks.ok().and_then(|stat| start_ticks(&stat)).unwrap_or_default() * NANOS_PER_TICK;
        let path = std::env::current_exe().unwrap_or_default();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let length = name.len().min(EXE_LEN - 1);
        task.exe[..length].copy_from_slice(&name[..length]);
        task.exe_len = u32::try_from(length).unwrap_or_default();
        self.observe(&task, boot_time_unix_ns)
    }

    /// Reads `/proc`, and believes it only if the process is still the same afterwards.
    fn look(&self, task: &Task) -> Option<Found> {
        let folder = self.proc.join(task.tgid.to_string());
        let executable =
            fs::read_link(folder.join("exe")).ok().map(|path| without_deleted(path.into_os_string()));
        let in_host_namespaces =
            self.host_namespaces.is_some() && namespaces(&folder) == self.host_namespaces;
        let started = start_ticks(&fs::read(folder.join("stat")).ok()?)?;
        if started != task.leader_start_ns / NANOS_PER_TICK {
            return None;
        }
        let executable = executable.filter(|path| is_of(task, path));
        Some(Found { executable, in_host_namespaces })
    }
}

struct Found {
    executable: Option<Vec<u8>>,
    in_host_namespaces: bool,
}

fn namespaces(process: &Path) -> Option<Namespaces> {
    let read = |name: &str| fs::read_link(process.join("ns").join(name)).ok().map(PathBuf::into_os_string);
    Some([read("user")?, read("mnt")?])
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

fn without_deleted(path: OsString) -> Vec<u8> {
    let path = path.into_vec();
    path.strip_suffix(DELETED).map(<[u8]>::to_vec).unwrap_or(path)
}

/// Field 22 of `/proc/PID/stat`. The name in field 2 may hold any byte, also `)`: count from the last one.
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(after_name + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn rfc3339_millis(unix_ns: u64) -> Option<String> {
    let time = Timestamp::from_nanosecond(i128::from(unix_ns)).ok()?;
    Some(format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn task_of(pid: u32) -> Task {
        let stat = fs::read(format!("/proc/{pid}/stat")).expect("the process lives");
        let mut task = Task::new_zeroed();
        task.tgid = pid;
        task.leader_start_ns = start_ticks(&stat).expect("a start time") * NANOS_PER_TICK + 123;
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
        let process = Observer::new(Path::new("/")).observe(&with_exe(task_of(std::process::id()), &name), 0);
        assert_eq!(process.executable_name, name);
        let expected = std::env::current_exe().expect("a path");
        assert_eq!(process.executable_path.as_deref(), Some(expected.as_os_str().as_bytes()));
        assert_eq!(process.owner.as_deref(), Some("root"), "the tests' uid field is 0");
    }

    #[test]
    fn a_reused_pid_gives_nothing_away() {
        let mut task = with_exe(task_of(std::process::id()), b"somebody-else");
        task.leader_start_ns -= 10 * NANOS_PER_TICK;
        let process = Observer::new(Path::new("/")).observe(&task, 0);
        assert_eq!(process.executable_name, b"somebody-else");
        assert_eq!((process.executable_path, process.owner), (None, None));
    }

    #[test]
    fn an_exec_since_the_accept_hides_the_new_path() {
        let process =
            Observer::new(Path::new("/")).observe(&with_exe(task_of(std::process::id()), b"before-exec"), 0);
        assert_eq!(process.executable_name, b"before-exec");
        assert_eq!(process.executable_path, None);
    }

    #[test]
    fn a_process_that_is_gone_keeps_the_kernels_facts() {
        let mut task = with_exe(Task::new_zeroed(), b"short-lived");
        task.tgid = u32::MAX;
        task.euid = 33;
        task.uid = 0;
        let process = Observer::new(Path::new("/")).observe(&task, 1_700_000_000_123_000_000);
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
        assert_eq!(Observer::new(Path::new("/")).observe(&task, 0).executable_name, b"[nfsd]");
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 98765 0 0";
        assert_eq!(start_ticks(format!("7 (a) b) (c) {rest}").as_bytes()), Some(98_765));
        assert_eq!(start_ticks(b"7 (a"), None);
        assert_eq!(start_ticks(b"7 (a) S 1"), None);
    }

    #[test]
    fn a_deleted_executable_keeps_its_name() {
        assert_eq!(without_deleted("/usr/sbin/nginx (deleted)".into()), b"/usr/sbin/nginx");
        assert_eq!(without_deleted("/usr/sbin/nginx".into()), b"/usr/sbin/nginx");
    }
}
