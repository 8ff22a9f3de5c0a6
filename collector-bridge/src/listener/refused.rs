//! Whose full queues refused connection attempts, where the programs do not count for each listener: TCP by
//! network namespace, and UNIX sockets by name. No I/O.

use std::collections::{BTreeMap, HashSet};

use acceptd_common::{
    Listener, RefusedAttempts, Task, UnixTarget,
    family::{AF_INET, AF_INET6, AF_UNIX},
};

use super::{
    overflow::{Growth, NamespaceOverflows},
    table::{KnownListener, ListenerTable},
};

const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;

/// Whether `ListenOverflows` counts the full queue of this listener.
#[must_use]
pub(crate) fn is_tcp(listener: &Listener) -> bool {
    matches!(listener.family, AF_INET | AF_INET6) && matches!(listener.protocol, IPPROTO_TCP | IPPROTO_MPTCP)
}

impl ListenerTable {
    /// The network namespaces to compare, with the owners of all TCP listeners in them: those in which
    /// `sk_drops` of a TCP listener grew since the last comparison, and those with TCP listeners that
    /// `is_wanted` is true for.
    #[must_use]
    pub(crate) fn namespaces(&self, is_wanted: impl Fn(u32) -> bool) -> BTreeMap<u32, Vec<Task>> {
        let tcp = || self.known.values().filter(|known| is_tcp(&known.listener));
        let chosen = tcp().filter(|known| known.overflow.has_grown() || is_wanted(known.listener.netns));
        let mut found: BTreeMap<u32, Vec<Task>> =
            chosen.map(|known| (known.listener.netns, Vec::new())).collect();
        if !found.is_empty() {
            for known in tcp() {
                if let Some(owners) = found.get_mut(&known.listener.netns) {
                    owners.extend(known.owner.task().copied());
                }
            }
        }
        found
    }

    /// Every listener whose owner is known, with the owner.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (&Listener, &Task)> {
        self.known.values().filter_map(|known| Some((&known.listener, known.owner.task()?)))
    }

    /// Compares how `sk_drops` of each listener of a namespace grew with `ListenOverflows` of the namespace,
    /// which is `None` if it cannot be read: then no overflow is reported.
    pub(crate) fn compare(&mut self, netns: u32, total: Option<u64>, namespaces: &mut NamespaceOverflows) {
        let is_grown = |known: &&mut KnownListener| {
            known.listener.netns == netns && known.overflow.has_grown() && is_tcp(&known.listener)
        };
        let mut grown: Vec<_> = self.known.values_mut().filter(is_grown).collect();
        let growths: Vec<Growth> = grown.iter().map(|known| known.overflow.growth()).collect();
        let shares = if let Some(total) = total {
            namespaces.compare(netns, total, &growths)
        } else {
            namespaces.miss(netns);
            Vec::new()
        };
        for (index, known) in grown.iter_mut().enumerate() {
            known.overflow.settle(shares.get(index).copied().unwrap_or(0));
        }
    }

    /// A survey is over: see [`NamespaceOverflows::end_survey`].
    pub(crate) fn end_survey(&self, namespaces: &mut NamespaceOverflows) {
        let in_use: HashSet<u32> = self.open_tcp().map(|known| known.listener.netns).collect();
        namespaces.end_survey(|netns| in_use.contains(&netns));
    }

    /// Listeners of these namespaces closed: see [`NamespaceOverflows::forget`].
    pub(crate) fn forget_unused(&self, mut closed_in: HashSet<u32>, namespaces: &mut NamespaceOverflows) {
        for known in self.open_tcp() {
            closed_in.remove(&known.listener.netns);
        }
        for netns in closed_in {
            namespaces.forget(netns);
        }
    }

    fn open_tcp(&self) -> impl Iterator<Item = &KnownListener> {
        self.known.values().filter(|known| !known.closed && is_tcp(&known.listener))
    }

    /// The UNIX listener at which connects to `target` failed; `None` if no listener has this name, or
    /// several could be it. `name` is the target's name as listeners are named: a path is absolute and
    /// without NUL. Of several listeners with one path, it is the one for whose owner `shares_files` is true.
    #[must_use]
    pub(crate) fn find_unix(
        &self,
        target: &UnixTarget,
        name: &[u8],
        shares_files: impl Fn(&Task) -> bool,
    ) -> Option<u64> {
        let is_abstract = name.first() == Some(&0);
        let all: Vec<&KnownListener> = self
            .known
            .values()
            .filter(|known| {
                known.listener.family == AF_UNIX
                    && unix_name(known) == name
                    // Paths are the same in every network namespace.
                    && (!is_abstract || known.listener.netns == target.netns)
            })
            .collect();
        let found = match all.as_slice() {
            [one] => one,
            _ if is_abstract => return None,
            _ => {
                let mut near = all.iter().filter(|known| known.owner.task().is_some_and(&shares_files));
                near.next().filter(|_| near.next().is_none())?
            }
        };
        Some(found.listener.inode)
    }

    /// Takes the programs' counts of a listener, if it is in the table.
    pub(crate) fn observe_refused(&mut self, inode: u64, counted: RefusedAttempts) {
        if let Some(known) = self.known.get_mut(&inode) {
            known.overflow.observe_counted(counted);
        }
    }

    /// Counts refused connects of a UNIX listener.
    pub(crate) fn count_refused(&mut self, inode: u64, count: u64) {
        if let Some(known) = self.known.get_mut(&inode) {
            known.overflow.refused(count);
        }
    }
}

fn unix_name(known: &KnownListener) -> &[u8] {
    trimmed(known.name.used())
}

/// The name without what follows the NUL that ends a path. Abstract names have any bytes.
#[must_use]
pub(crate) fn trimmed(name: &[u8]) -> &[u8] {
    match name {
        [0, ..] => name,
        path => path.split(|byte| *byte == 0).next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
