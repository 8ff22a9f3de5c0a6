//! Reads what the programs do not count of full queues: `ListenOverflows` of network namespaces, from
//! `/proc/PID/net/netstat`, and which UNIX listener a process could not connect to.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use acceptd_common::{Listener, RefusedAttempts, Task, UnixTarget};

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
    /// The listeners with counts in the kernel's map at the last survey.
    counted: HashMap<u64, Counted>,
    /// Attempts that listeners refused which the table did not have.
    of_unknown: u64,
}

/// The count of one listener in the kernel's map, and which part of it the table took.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    /// The count when the table had the listener.
    taken: u64,
    /// The count at the last survey.
    total: u64,
    /// Whether the table did not have the listener then.
    is_unknown: bool,
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
            counted: HashMap::new(),
            of_unknown: 0,
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
    /// Only namespaces with such listeners are read.
    pub(super) fn compare_grown(&mut self, table: &mut ListenerTable) {
        self.compare(table, false);
    }

    /// The same at a survey, and for each namespace that is followed. Overflows without a drop of a known
    /// listener are those of another one, such as a listener of the kernel: a known listener must not get
    /// them when it drops packets later.
    pub(super) fn compare_all(&mut self, table: &mut ListenerTable) {
        self.compare(table, true);
    }

    fn compare(&mut self, table: &mut ListenerTable, are_all_read: bool) {
        if self.are_counted {
            return;
        }
        for (netns, tasks) in table.namespaces(|netns| are_all_read && self.namespaces.is_read(netns)) {
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
        let closed_in = std::mem::take(&mut self.closed_in);
        if !self.are_counted {
            table.forget_unused(closed_in, &mut self.namespaces);
        }
    }

    /// A survey is over.
    pub(super) fn end_survey(&mut self, table: &ListenerTable) {
        if !self.are_counted {
            table.end_survey(&mut self.namespaces);
            self.tried.clear();
        }
    }

    /// Counts the refused connects of UNIX sockets for the listeners that they were meant for. Returns the
    /// targets that the kernel's map may forget, and the inodes of the listeners that refused more.
    pub(super) fn take_unix(
        &mut self,
        totals: &[(UnixTarget, u64)],
        table: &mut ListenerTable,
    ) -> (Vec<UnixTarget>, Vec<u64>) {
        let (mut idle, mut refusing) = (Vec::new(), Vec::new());
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
                    Some(inode) => {
                        table.count_refused(inode, new);
                        refusing.push(inode);
                    }
                    None => self.unknown_unix += new,
                }
            }
        }
        (idle, refusing)
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

    /// Takes the counts in the kernel's map, after the table took those of its listeners. Returns the
    /// listeners that the table has not had for two surveys: they are closed, or do not fit into it. What
    /// they refused since then counts for no listener.
    pub(super) fn take_gone(&mut self, counts: &[(u64, RefusedAttempts)], table: &ListenerTable) -> Vec<u64> {
        let mut before = std::mem::take(&mut self.counted);
        let mut gone = Vec::new();
        for (listener, RefusedAttempts { refused, .. }) in counts {
            let last = before.remove(listener).unwrap_or_default();
            let is_unknown = table.by_inode(*listener).is_none();
            if is_unknown && last.is_unknown {
                self.of_unknown += refused.saturating_sub(last.taken);
                gone.push(*listener);
            } else {
                let taken = if is_unknown { last.taken } else { *refused };
                self.counted.insert(*listener, Counted { taken, total: *refused, is_unknown });
            }
        }
        gone
    }

    /// The run ends: what would have counted for a listener at a later survey counts for none.
    pub(super) fn end(&mut self) {
        self.namespaces.end_survey(|_| true);
        for (_, Counted { taken, total, .. }) in self.counted.drain() {
            self.of_unknown += total.saturating_sub(taken);
        }
    }

    /// Refused attempts that count for no listener.
    pub(super) fn unassigned(&self) -> u64 {
        self.namespaces.unassigned() + self.unknown_unix + self.of_unknown
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
    use std::{os::unix::fs::symlink, time::Duration};

    use acceptd_common::{ListenerState, family::AF_INET};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::listener::{overflow::Overflow, table::FindingKind};

    /// A TCP listener of the process 7.
    fn tcp(netns: u32, drops: u32) -> ListenerState {
        let mut state = ListenerState::new_zeroed();
        (state.listener.inode, state.listener.cookie, state.listener.netns) = (1, 1, netns);
        (state.listener.family, state.listener.protocol, state.listener.drops) = (AF_INET, 6, drops);
        (state.owner.tgid, state.owner.tid) = (7, 7);
        state
    }

    fn table(states: &[ListenerState]) -> ListenerTable {
        ListenerTable::new(states, Duration::from_secs(5), 0)
    }

    #[test]
    fn a_listener_does_not_get_what_others_refused_before_it_dropped_packets() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let thread = folder.path().join("7/task/7");
        fs::create_dir_all(thread.join("ns")).expect("a folder");
        fs::create_dir_all(thread.join("net")).expect("a folder");
        symlink("/proc/self/ns/net", thread.join("ns/net")).expect("a link");
        let count = |overflows: u64| {
            let text = format!("TcpExt: ListenOverflows\nTcpExt: {overflows}\n");
            fs::write(thread.join("net/netstat"), text).expect("a file");
        };
        count(0);
        let own = fs::metadata("/proc/self/ns/net").expect("the own namespace").ino();
        let netns = u32::try_from(own).expect("an inode number of nsfs");
        let quiet = tcp(netns, 0);
        let mut table = table(&[quiet]);
        let mut overflows = Overflows::new();
        overflows.set_proc(folder.path().to_owned());
        overflows.learn(&quiet.listener, &quiet.owner);
        // A listener that the table does not have.
        count(500);
        for state in [quiet, quiet, tcp(netns, 40)] {
            table.apply_survey(&[state], 1);
            overflows.compare_all(&mut table);
            overflows.end_survey(&table);
        }
        table.find_overflows(1);
        let found: Vec<_> = table.take_findings().into_iter().map(|finding| finding.kind).collect();
        assert_eq!(found, [FindingKind::Overflow(Overflow { dropped: 40, ..Overflow::default() })]);
        assert_eq!(overflows.unassigned(), 500);
    }

    #[test]
    fn what_unknown_listeners_refused_counts_for_none() {
        let known = table(&[tcp(1, 0)]);
        let unknown = table(&[]);
        let refused = |refused| RefusedAttempts { refused, waited: 0, waited_ns: 0 };
        let mut overflows = Overflows::new();
        assert_eq!(overflows.take_gone(&[(1, refused(5)), (2, refused(3))], &known), [0_u64; 0]);
        assert_eq!(overflows.take_gone(&[(1, refused(5)), (2, refused(4))], &known), [2]);
        assert_eq!(overflows.unassigned(), 4);
        // The table had the first listener until five attempts were refused.
        assert_eq!(overflows.take_gone(&[(1, refused(7)), (3, refused(1))], &unknown), [0_u64; 0]);
        assert_eq!(overflows.take_gone(&[(1, refused(8)), (3, refused(1))], &unknown), [1, 3]);
        assert_eq!(overflows.unassigned(), 4 + 3 + 1);
        assert_eq!(overflows.take_gone(&[(4, refused(6))], &unknown), [0_u64; 0]);
        overflows.end();
        assert_eq!(overflows.unassigned(), 8 + 6, "the run ends");
    }

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
