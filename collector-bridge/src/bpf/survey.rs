//! Passes of the iterators over what is there: the listeners of all processes, and connections that were queued
//! before the programs were attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{
        File, {self},
    },
    io::{
        Read as _, {self},
    },
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use acceptd_common::ListenerState;
use aya::programs::{Iter, ProgramError, links::LinkError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;
use zerocopy::FromBytes as _;

/// Why a pass gave nothing.
#[derive(Debug, Error)]
pub enum SurveyError {
    /// The kernel refused to attach the iterator.
    #[error("the kernel refused the iterator: {0}")]
    Attach(#[from] ProgramError),
    /// The link could not be made a file.
    #[error("the kernel refused the iterator's file: {0}")]
    Link(#[from] LinkError),
    /// Reading failed.
    #[error("the iterator could not be read: {0}")]
    Read(#[from] io::Error),
}

/// Every listener that a process has open, each with one of its owners: the first that the kernel visits, which
/// has the lowest process id. One that nobody has open any more (it waits in a message, or in a ring's table of files)
/// is not visited.
///
/// # Errors
/// When the kernel refuses.
pub fn listeners(iterator: &mut Iter) -> Result<Vec<ListenerState>, SurveyError> {
    let mut bytes = Vec::new();
    open(iterator)?.read_to_end(&mut bytes)?;
    let mut found = BTreeMap::new();
    for row in bytes.chunks_exact(size_of::<ListenerState>()) {
        if let Ok(state) = ListenerState::read_from_bytes(row) {
            found.entry(state.listener.inode).or_insert(state);
        }
    }
    Ok(found.into_values().collect())
}

/// Looks at the TCP sockets of every network namespace that a process is in: remembers those that are queued, and that the others are
/// there. Says for how many namespaces that failed: their queued connections are recorded as unverified.
///
/// # Errors
/// When the kernel refuses the iterator as such.
pub fn remember_queued(iterator: &mut Iter, listeners: &[ListenerState]) -> Result<usize, SurveyError> {
    pass(iterator)?;
    let mut others = networks(listeners)?;
    let of_listeners = listeners.iter().map(|state| u64::from(state.listener.netns));
    let mut wanted: BTreeSet<u64> = others.keys().copied().chain(of_listeners).collect();
    if let Some(own) = File::open("/proc/self/ns/net").ok().and_then(|file| inode(&file)) {
        others.remove(&own);
        wanted.remove(&own);
    }
    for (netns, namespace) in others {
        // The iterator looks at the network namespace of the thread that opens it.
        let entered = thread::scope(|scope| {
            let inside = scope.spawn(|| -> Option<()> {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
                pass(iterator).ok()
            });
            inside.join().ok().flatten()
        });
        if entered.is_some() {
            wanted.remove(&netns);
        }
    }
    Ok(wanted.len())
}

/// The network namespaces of all processes, and of single threads that have a listener there, by their inodes.
fn networks(listeners: &[ListenerState]) -> io::Result<BTreeMap<u64, OwnedFd>> {
    let mut found = BTreeMap::new();
    add_networks(&mut found, "/proc")?;
    for state in listeners {
        if !found.contains_key(&u64::from(state.listener.netns)) {
            // The process may be gone, or not be seen here.
            _ = add_networks(&mut found, &format!("/proc/{}/task", state.owner.tgid));
        }
    }
    Ok(found)
}

/// Those of the tasks that have a folder here.
fn add_networks(found: &mut BTreeMap<u64, OwnedFd>, folder: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        // Not a task, or not any more.
        let Ok(file) = File::open(entry.path().join("ns/net")) else { continue };
        if let Some(inode) = inode(&file) {
            found.entry(inode).or_insert_with(|| file.into());
        }
    }
    Ok(())
}

/// A pass whose program writes nothing.
///
/// # Errors
/// When the kernel refuses.
pub fn pass(iterator: &mut Iter) -> Result<(), SurveyError> {
    io::copy(&mut open(iterator)?, &mut io::sink())?;
    Ok(())
}

/// A link is used up by its file.
fn open(iterator: &mut Iter) -> Result<File, SurveyError> {
    let link = iterator.attach()?;
    Ok(iterator.take_link(link)?.into_file()?)
}

fn inode(file: &File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(file.metadata().ok()?.ino())
}
