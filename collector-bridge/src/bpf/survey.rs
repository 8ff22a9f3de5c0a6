//! Runs the iterators over what exists in the kernel: the listeners of all processes, and the connections
//! that were queued before the programs were attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use acceptd_common::{ListenerState, SurveyRow};
use aya::programs::{Iter, ProgramError, links::LinkError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;
use zerocopy::FromBytes as _;

use super::unix_paths::UnixPaths;

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

/// Every listener that a process has open, once for each of these processes. Rows of one listener are
/// neighbours, by ascending process id. The kernel does not visit a listener without a file descriptor: one
/// in an `SCM_RIGHTS` message, or only in the file table of an io_uring. The name of a UNIX listener is the
/// path that its file has now, where that is known; the [`UnixPaths`] lead there from the name that it was
/// bound to.
///
/// # Errors
/// When the kernel refuses the pass.
pub(super) fn listeners(iterator: &mut Iter) -> Result<(Vec<ListenerState>, UnixPaths), SurveyError> {
    let mut bytes = Vec::new();
    open(iterator)?.read_to_end(&mut bytes)?;
    let (rows, _) = bytes.as_chunks::<{ size_of::<SurveyRow>() }>();
    let mut paths = UnixPaths::default();
    let rows = rows.iter().filter_map(|row| SurveyRow::read_from_bytes(row).ok());
    let mut states: Vec<ListenerState> = rows
        .map(|SurveyRow { mut state, path }| {
            if path.length != 0 {
                state.name = paths.add(state.listener.inode, &state.name, &path);
            }
            state
        })
        .collect();
    // The kernel visits processes by ascending id, and the sort is stable.
    states.sort_by_key(|state| state.listener.inode);
    Ok((states, paths))
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
