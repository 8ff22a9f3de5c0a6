//! Runs the iterators over what exists in the kernel: the listeners of all processes, and the connections
//! that were queued before the programs were attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufReader, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use acceptd_common::{ListenerState, SurveyRow};
use aya::programs::{Iter, ProgramError, links::LinkError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::unix_paths::UnixPaths;

/// Most processes that a survey shows for one listener, at about 400 bytes each.
pub(crate) const MAX_HOLDERS: usize = 256;

/// How much of a survey is read with one call.
const READ_BYTES: usize = 64 * 1024;

/// Why a pass of an iterator failed.
#[derive(Debug, Error)]
pub enum SurveyError {
    /// The kernel refused to attach the iterator.
    #[error("the kernel refused the iterator: {0}")]
    Attach(#[from] ProgramError),
    /// The kernel refused to turn the link into a file.
    #[error("the kernel refused the iterator's file: {0}")]
    Link(#[from] LinkError),
    /// Reading from the iterator's file failed.
    #[error("the iterator could not be read: {0}")]
    Read(#[from] io::Error),
}

/// Every listener that a process has open, once for each of these processes, as [`Holders`] keeps them. The
/// kernel does not visit a listener without a file descriptor: one in an `SCM_RIGHTS` message, or only in the
/// file table of an io_uring.
///
/// # Errors
/// When the kernel refuses the pass.
pub(super) fn listeners(iterator: &mut Iter) -> Result<(Vec<ListenerState>, UnixPaths), SurveyError> {
    let mut file = BufReader::with_capacity(READ_BYTES, open(iterator)?);
    let mut holders = Holders::default();
    let mut row = SurveyRow::new_zeroed();
    loop {
        match file.read_exact(row.as_mut_bytes()) {
            Ok(()) => holders.add(&row),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(holders.finish()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The rows of one survey: one for each process that has a listener open, also if it has several descriptors
/// of it, and [`MAX_HOLDERS`] at most for each listener.
#[derive(Default)]
struct Holders {
    by_inode: BTreeMap<u64, Vec<ListenerState>>,
    paths: UnixPaths,
}

impl Holders {
    fn add(&mut self, row: &SurveyRow) {
        let SurveyRow { mut state, path } = *row;
        let known = self.by_inode.entry(state.listener.inode).or_default();
        // The latest first: a process with many descriptors has its rows in a run.
        let is_known = known.iter().rev().any(|known| known.owner.tgid == state.owner.tgid);
        if is_known || known.len() >= MAX_HOLDERS {
            return;
        }
        if path.length != 0 {
            state.name = self.paths.add(state.listener.inode, &state.name, &path);
        }
        known.push(state);
    }

    /// Rows of one listener are neighbours, by ascending process id, as the kernel visits processes. The
    /// name of a UNIX listener is the path that its file has now, where that is known; the [`UnixPaths`] lead
    /// there from the name that it was bound to.
    fn finish(self) -> (Vec<ListenerState>, UnixPaths) {
        (self.by_inode.into_values().flatten().collect(), self.paths)
    }
}

/// Visits the TCP sockets of every network namespace in use. The iterator remembers the queued connections,
/// so that their accepts are verified, and marks the others as still open. Returns the number of namespaces
/// that could not be visited; accepts of connections queued there are recorded as unverified.
///
/// # Errors
/// When the kernel refuses the iterator in the agent's own namespace.
pub(super) fn queued_connections(
    iterator: &mut Iter,
    listeners: &[ListenerState],
) -> Result<usize, SurveyError> {
    run(iterator)?;
    let mut others = network_namespaces(listeners)?;
    let listener_namespaces = listeners.iter().map(|state| u64::from(state.listener.netns));
    let mut pending: BTreeSet<u64> = others.keys().copied().chain(listener_namespaces).collect();
    if let Some(own) = File::open("/proc/self/ns/net").ok().and_then(|file| inode(&file)) {
        others.remove(&own);
        pending.remove(&own);
    }
    for (netns, namespace) in others {
        // The iterator visits the network namespace of the thread that opens it. A thread of its own enters
        // the namespace, so that no other thread has to return from it.
        let entered = thread::scope(|scope| {
            let inside = scope.spawn(|| -> Option<()> {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
                run(iterator).ok()
            });
            inside.join().ok().flatten()
        });
        if entered.is_some() {
            pending.remove(&netns);
        }
    }
    Ok(pending.len())
}

/// The network namespaces of all processes, and of single threads that own one of the listeners, by inode
/// number.
fn network_namespaces(listeners: &[ListenerState]) -> io::Result<BTreeMap<u64, OwnedFd>> {
    let mut found = BTreeMap::new();
    add_namespaces(&mut found, "/proc")?;
    for state in listeners {
        if !found.contains_key(&u64::from(state.listener.netns)) {
            // The process may have exited, or may be invisible in this /proc.
            _ = add_namespaces(&mut found, &format!("/proc/{}/task", state.owner.tgid));
        }
    }
    Ok(found)
}

/// Adds the network namespaces of the tasks that have a directory in `folder`.
fn add_namespaces(found: &mut BTreeMap<u64, OwnedFd>, folder: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        // The entry is no task, or the task has exited.
        let Ok(file) = File::open(entry.path().join("ns/net")) else { continue };
        if let Some(inode) = inode(&file) {
            found.entry(inode).or_insert_with(|| file.into());
        }
    }
    Ok(())
}

/// Runs an iterator whose program writes no output.
///
/// # Errors
/// When the kernel refuses the pass.
pub(super) fn run(iterator: &mut Iter) -> Result<(), SurveyError> {
    io::copy(&mut open(iterator)?, &mut io::sink())?;
    Ok(())
}

/// Attaches the iterator and opens its file. Reading the file to its end is one pass; the next pass needs a
/// new file.
fn open(iterator: &mut Iter) -> Result<File, SurveyError> {
    let link = iterator.attach()?;
    Ok(iterator.take_link(link)?.into_file()?)
}

fn inode(file: &File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(file.metadata().ok()?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(inode: u64, tgid: u32, fd: i32) -> SurveyRow {
        let mut row = SurveyRow::new_zeroed();
        (row.state.listener.inode, row.state.owner.tgid, row.state.fd) = (inode, tgid, fd);
        row
    }

    fn survey(rows: impl IntoIterator<Item = SurveyRow>) -> Vec<(u64, u32, i32)> {
        let mut holders = Holders::default();
        rows.into_iter().for_each(|row| holders.add(&row));
        let (states, _) = holders.finish();
        states.iter().map(|state| (state.listener.inode, state.owner.tgid, state.fd)).collect()
    }

    #[test]
    fn each_process_has_one_row_for_each_listener() {
        // Descriptors of two listeners take turns, and a thread with its own descriptors comes later.
        let rows = [(7, 1, 3), (5, 1, 4), (7, 1, 5), (5, 1, 6), (5, 2, 3), (7, 1, 7), (5, 2, 8)];
        let expected = [(5, 1, 4), (5, 2, 3), (7, 1, 3)];
        assert_eq!(survey(rows.map(|(inode, tgid, fd)| row(inode, tgid, fd))), expected);
    }

    #[test]
    fn a_listener_has_a_bounded_number_of_rows() {
        let many = (1..=10_000).flat_map(|tgid| [row(5, tgid, 3), row(5, tgid, 4)]);
        let states = survey(many.chain([row(7, 10_000, 5)]));
        assert_eq!(states.len(), MAX_HOLDERS + 1);
        assert_eq!(states.last(), Some(&(7, 10_000, 5)));
    }
}
