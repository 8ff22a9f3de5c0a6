//! Reads what the programs do not count of full queues: `ListenOverflows` of network namespaces, from
//! `/proc/PID/net/netstat`, and which UNIX listener a process could not connect to.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use acceptd_common::{Listener, Task, UnixTarget};

use crate::listener::{
    overflow::NamespaceOverflows,
    refused::{is_tcp, trimmed},
    table::ListenerTable,
};

/// Most processes that are tried to find one in a network namespace.
const MAX_PROCESSES: usize = 64;

/// Most threads of a process that are tried: each is one call of stat(2).
const MAX_THREADS: usize = 4096;

/// Most owners of listeners that are tried in one survey for a network namespace that was not read yet.
const MAX_OWNERS: u32 = 4;

/// Surveys without a new refused connect after which a count is forgotten, to make room in the kernel's map.
const IDLE_SURVEYS: u32 = 60;

/// The values that were read so far.
pub(super) struct Overflows {
    /// The `/proc` with the host's process ids.
    proc: PathBuf,
    /// Whether the programs count the refused attempts of each TCP listener.
    are_counted: bool,
    namespaces: NamespaceOverflows,
    /// How many owners were tried in this survey for each namespace that was not read yet.
    tried: HashMap<u32, u32>,
    /// The namespaces of listeners that closed since the last call of [`Self::end_closes`].
    closed_in: HashSet<u32>,
    unix: HashMap<UnixTarget, UnixTotal>,
    /// Refused connects of UNIX sockets whose listener is not known.
    unknown_unix: u64,
    /// Listeners with counts in the kernel's map that the table did not have at the last survey.
    gone: HashSet<u64>,
}

#[derive(Default)]
struct UnixTotal {
    count: u64,
    /// Surveys since it last grew.
    idle: u32,
}

impl Overflows {
    pub(super) fn new() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            are_counted: false,
            namespaces: NamespaceOverflows::new(),
            tried: HashMap::new(),
            closed_in: HashSet::new(),
            unix: HashMap::new(),
            unknown_unix: 0,
            gone: HashSet::new(),
        }
    }

    /// Sets the `/proc` with the host's process ids.
    pub(super) fn set_proc(&mut self, proc: PathBuf) {
        self.proc = proc;
    }

    /// Says that the programs count the refused attempts of each TCP listener: no other source is asked then.
    pub(super) fn set_counted(&mut self) {
        self.are_counted = true;
    }

    /// Begins to follow the network namespace of a listener, which `task` has open. Called for each accept.
    pub(super) fn learn(&mut self, listener: &Listener, task: &Task) {
        if !self.are_counted && is_tcp(listener) && !self.namespaces.contains(listener.netns) {
            let total = listen_overflows(&self.proc, listener.netns, task);
            self.namespaces.begin(listener.netns, total);
        }
    }

    /// The same for a surveyed listener, also if its namespace could not be read before.
    pub(super) fn learn_again(&mut self, listener: &Listener, task: &Task) {
        if !self.are_counted && is_tcp(listener) && !self.namespaces.is_read(listener.netns) {
            let tried = self.tried.entry(listener.netns).or_default();
            *tried += 1;
            if *tried > MAX_OWNERS {
                return;
            }
            let total = listen_overflows(&self.proc, listener.netns, task);
            self.namespaces.begin(listener.netns, total);
        }
    }

    /// Compares how `sk_drops` of the listeners grew with how `ListenOverflows` of their namespaces grew.
    /// Only namespaces with such listeners are read: without a drop there was no overflow.
    pub(super) fn compare(&mut self, table: &mut ListenerTable) {
        if self.are_counted {
            return;
        }
        for (netns, tasks) in table.grown_namespaces() {
            let total =
                tasks.iter().take(MAX_PROCESSES).find_map(|task| listen_overflows(&self.proc, netns, task));
            table.compare(netns, total, &mut self.namespaces);
        }
    }

    /// A listener of the namespace closed.
    pub(super) fn closed(&mut self, netns: u32) {
        self.closed_in.insert(netns);
    }

    /// The listeners that closed were compared.
    pub(super) fn end_closes(&mut self, table: &ListenerTable) {
        table.forget_unused(std::mem::take(&mut self.closed_in), &mut self.namespaces);
    }

    /// A survey is over.
    pub(super) fn end_survey(&mut self, table: &ListenerTable) {
        if !self.are_counted {
            table.end_survey(&mut self.namespaces);
            self.tried.clear();
        }
    }

    /// Counts the refused connects of UNIX sockets for the listeners that they were meant for. Returns the
    /// targets that the kernel's map may forget.
    pub(super) fn take_unix(
        &mut self,
        totals: &[(UnixTarget, u64)],
        table: &mut ListenerTable,
    ) -> Vec<UnixTarget> {
        let mut idle = Vec::new();
        for (target, count) in totals {
            let total = self.unix.entry(*target).or_default();
            let new = count.saturating_sub(total.count);
            total.count = *count;
            total.idle = if new == 0 { total.idle + 1 } else { 0 };
            if total.idle > IDLE_SURVEYS {
                self.unix.remove(target);
                idle.push(*target);
            } else if new > 0 {
                match self.find_unix(target, table) {
                    Some(inode) => table.count_refused(inode, new),
                    None => self.unknown_unix += new,
                }
            }
        }
        idle
    }

    fn find_unix(&self, target: &UnixTarget, table: &ListenerTable) -> Option<u64> {
        let UnixTarget { tgid, name, .. } = target;
        let given = trimmed(name.used());
        let link = |pid: u32, name: &str| fs::read_link(self.proc.join(pid.to_string()).join(name)).ok();
        let is_relative = !matches!(given, [] | [0 | b'/', ..]);
        let absolute = is_relative.then(|| {
            let folder = link(*tgid, "cwd").unwrap_or_default();
            [folder.as_os_str().as_bytes(), b"/", given].concat()
        });
        let mounts = link(*tgid, "ns/mnt");
        table.find_unix(target, absolute.as_deref().unwrap_or(given), |owner| {
            mounts.is_some() && link(owner.tgid, "ns/mnt") == mounts
        })
    }

    /// Of the listeners with counts in the kernel's map, those that have been gone for two surveys.
    pub(super) fn gone(&mut self, listeners: &[u64], table: &ListenerTable) -> Vec<u64> {
        let unknown: HashSet<u64> =
            listeners.iter().copied().filter(|inode| table.by_inode(*inode).is_none()).collect();
        let gone = unknown.intersection(&self.gone).copied().collect();
        self.gone = unknown;
        gone
    }

    /// Refused attempts that count for no listener.
    pub(super) fn unassigned(&self) -> u64 {
        self.namespaces.unassigned() + self.unknown_unix
    }
}

/// `ListenOverflows` of the network namespace `netns`, by a thread of the task's process that is in it;
/// `None` if there is none any more.
fn listen_overflows(proc: &Path, netns: u32, task: &Task) -> Option<u64> {
    if task.tgid == 0 {
        return None;
    }
    let threads = proc.join(task.tgid.to_string()).join("task");
    let of_task = read_in(&threads.join(task.tid.to_string()), netns);
    of_task.or_else(|| {
        let all = fs::read_dir(&threads).ok()?.flatten().take(MAX_THREADS);
        all.into_iter().find_map(|thread| read_in(&thread.path(), netns))
    })
}

/// The value as the thread with the folder `thread` sees it, if it is in the namespace.
fn read_in(thread: &Path, netns: u32) -> Option<u64> {
    let is_inside =
        || fs::metadata(thread.join("ns/net")).is_ok_and(|namespace| namespace.ino() == u64::from(netns));
    if !is_inside() {
        return None;
    }
    let text = fs::read_to_string(thread.join("net/netstat")).ok()?;
    // It may have entered another namespace meanwhile.
    is_inside().then(|| parse(&text)).flatten()
}

/// `ListenOverflows` in the text of `/proc/net/netstat`: pairs of a line with names and one with values.
fn parse(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "ListenOverflows")?;
    values.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn the_value_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 5 7 9\nIpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(parse(text), Some(7));
        for broken in ["", "TcpExt: A\n", "TcpExt: A ListenOverflows\nTcpExt: 1\n", "TcpExt: A\nTcpExt: 1\n"]
        {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn the_value_of_the_own_namespace_is_read_and_no_other() {
        let own = fs::metadata("/proc/self/ns/net").expect("the own namespace").ino();
        let netns = u32::try_from(own).expect("an inode number of nsfs");
        let mut task = Task::new_zeroed();
        task.tgid = std::process::id();
        // The thread is gone; another one of the process is in the namespace.
        task.tid = 1;
        let proc = Path::new("/proc");
        assert!(listen_overflows(proc, netns, &task).is_some());
        assert_eq!(listen_overflows(proc, netns + 1, &task), None);
        task.tgid = 0;
        assert_eq!(listen_overflows(proc, netns, &task), None);
    }
}
