//! Runs the iterators over what exists in the kernel: the listeners of all processes, and the connections
//! that were queued before the programs were attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufReader, Read},
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use acceptd_common::{ListenerState, SurveyRow};
use aya::{
    maps::MapError,
    programs::{Iter, ProgramError, links::LinkError},
};
use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::unix_paths::UnixPaths;

/// Most listeners that a survey shows, and that the agent keeps.
pub(crate) const MAX_LISTENERS: usize = 4096;

/// Most processes that a survey shows for one listener, without those that the agent asks for.
const MAX_HOLDERS: usize = 256;

/// Most rows of a survey, at about 400 bytes each, without the first row of each listener and those of the
/// processes that the agent asks for.
const MAX_FURTHER_ROWS: usize = 8192;

/// Most listeners that a survey counts but does not show, at about 16 bytes each.
const MAX_COUNTED: usize = 65_536;

/// How much of a survey is read with one call.
const READ_BYTES: usize = 64 * 1024;

/// Most reads of one pass that end without a row. Each visits a million objects in about 0.1 s, during which
/// no sample is read: with all of them the agent is not yet considered stuck.
const MAX_EMPTY_READS: u32 = 32;

/// The listeners that the agent keeps already, by inode number. A survey shows these first, and of each the
/// rows of the processes with these two ids; an id of 0 stands for none.
pub(crate) type KeptListeners = HashMap<u64, [u32; 2]>;

/// The result of a survey.
#[derive(Debug, Default)]
pub struct Survey {
    /// The state of the listeners, once for each process that has it open. Rows of one listener are
    /// neighbours, by ascending process id.
    pub rows: Vec<ListenerState>,
    /// How many listeners have no row because there are too many. Counted up to 65,536.
    pub beyond: u64,
}

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
    /// The last row of the earlier survey could not be cleared.
    #[error("the map SURVEY_ROW could not be written: {0}")]
    Clear(#[from] MapError),
}

/// Every listener that a process has open, once for each of these processes, as [`Holders`] keeps them. The
/// kernel does not visit a listener without a file descriptor: one in an `SCM_RIGHTS` message, or only in the
/// file table of an io_uring.
///
/// # Errors
/// When the kernel refuses the pass.
pub(super) fn listeners(
    iterator: &mut Iter,
    kept: &KeptListeners,
) -> Result<(Survey, UnixPaths), SurveyError> {
    Ok(read_rows(open(iterator)?, kept)?)
}

fn read_rows(file: impl Read, kept: &KeptListeners) -> io::Result<(Survey, UnixPaths)> {
    let mut file = BufReader::with_capacity(READ_BYTES, Pass { file, empty_reads: 0 });
    let mut holders = Holders::new(kept);
    let mut row = SurveyRow::new_zeroed();
    loop {
        match file.read_exact(row.as_mut_bytes()) {
            Ok(()) => holders.add(&row),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(holders.finish()),
            Err(error) => return Err(error),
        }
    }
}

/// The file of one pass of an iterator. A read that visits a million objects and has no output ends with
/// `EAGAIN`; the next one goes on from there (`bpf_seq_read` in `kernel/bpf/bpf_iter.c`).
struct Pass<R> {
    file: R,
    empty_reads: u32,
}

impl<R: Read> Read for Pass<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.empty_reads < MAX_EMPTY_READS {
            match self.file.read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.empty_reads += 1,
                result => return result,
            }
        }
        Err(io::Error::other(format!("{MAX_EMPTY_READS} million objects gave no row, and there are more")))
    }
}

/// The rows of one survey: one for each process that has a listener open, also if it has several descriptors
/// of it. Their number is bounded; rows that the agent needs come first.
struct Holders<'a> {
    kept: &'a KeptListeners,
    rows: Vec<ListenerState>,
    /// Process ids of the rows of each listener.
    shown: HashMap<u64, Vec<u32>>,
    /// How many more listeners can be shown that the agent does not keep yet.
    room: usize,
    /// How many rows are there that the agent does not need.
    further: usize,
    /// Listeners without a row, by inode number.
    beyond: HashSet<u64>,
    paths: UnixPaths,
}

impl<'a> Holders<'a> {
    fn new(kept: &'a KeptListeners) -> Self {
        Self {
            kept,
            rows: Vec::new(),
            shown: HashMap::new(),
            room: MAX_LISTENERS.saturating_sub(kept.len()),
            further: 0,
            beyond: HashSet::new(),
            paths: UnixPaths::default(),
        }
    }

    fn add(&mut self, row: &SurveyRow) {
        let SurveyRow { mut state, path } = *row;
        let (inode, process) = (state.listener.inode, state.owner.tgid);
        let kept = self.kept.get(&inode);
        if kept.is_none() && !self.shown.contains_key(&inode) {
            if self.room == 0 {
                if self.beyond.len() < MAX_COUNTED {
                    self.beyond.insert(inode);
                }
                return;
            }
            self.room -= 1;
        }
        let shown = self.shown.entry(inode).or_default();
        // The latest first: a process with many descriptors has its rows in a run.
        if shown.iter().rev().any(|shown| *shown == process) {
            return;
        }
        if !shown.is_empty() && !kept.is_some_and(|wanted| wanted.contains(&process)) {
            if shown.len() >= MAX_HOLDERS || self.further >= MAX_FURTHER_ROWS {
                return;
            }
            self.further += 1;
        }
        shown.push(process);
        if path.length != 0 {
            state.name = self.paths.add(inode, &state.name, &path);
        }
        self.rows.push(state);
    }

    /// The kernel visits processes by ascending id, and the sort keeps that order. The name of a UNIX
    /// listener is the path that its file has now, where that is known; the [`UnixPaths`] lead there from the
    /// name that it was bound to.
    fn finish(self) -> (Survey, UnixPaths) {
        let Self { mut rows, beyond, paths, .. } = self;
        rows.sort_by_key(|state| state.listener.inode);
        (Survey { rows, beyond: beyond.len() as u64 }, paths)
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
    io::copy(&mut Pass { file: open(iterator)?, empty_reads: 0 }, &mut io::sink())?;
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
    use std::collections::VecDeque;

    use super::*;

    fn row(inode: u64, tgid: u32, fd: i32) -> SurveyRow {
        let mut row = SurveyRow::new_zeroed();
        (row.state.listener.inode, row.state.owner.tgid, row.state.fd) = (inode, tgid, fd);
        row
    }

    fn survey(rows: impl IntoIterator<Item = SurveyRow>, kept: &KeptListeners) -> Survey {
        let mut holders = Holders::new(kept);
        rows.into_iter().for_each(|row| holders.add(&row));
        holders.finish().0
    }

    fn shown(survey: &Survey) -> Vec<(u64, u32, i32)> {
        survey.rows.iter().map(|state| (state.listener.inode, state.owner.tgid, state.fd)).collect()
    }

    /// Gives one of these with each read, then the end; `None` is `EAGAIN`.
    struct Scripted(VecDeque<Option<Vec<u8>>>);

    impl Read for Scripted {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.pop_front() {
                Some(Some(bytes)) => {
                    out[..bytes.len()].copy_from_slice(&bytes);
                    Ok(bytes.len())
                }
                Some(None) => Err(io::ErrorKind::WouldBlock.into()),
                None => Ok(0),
            }
        }
    }

    #[test]
    fn a_million_files_without_a_listener_do_not_end_the_pass() {
        let (one, two) = (row(5, 1, 3), row(7, 2, 4));
        let (start, end) = two.as_bytes().split_at(100);
        let reads = [None, Some(one.as_bytes().to_vec()), None, None, Some(start.to_vec()), None]
            .into_iter()
            .chain([Some(end.to_vec()), None]);
        let (survey, _) = read_rows(Scripted(reads.collect()), &KeptListeners::new()).expect("all rows");
        assert_eq!(shown(&survey), [(5, 1, 3), (7, 2, 4)]);
    }

    #[test]
    fn a_pass_that_takes_too_long_is_an_error() {
        let file = Scripted(vec![None; 1000].into());
        let error = read_rows(file, &KeptListeners::new()).expect_err("too many files").to_string();
        assert!(error.starts_with("32 million objects"), "{error}");
    }

    #[test]
    fn each_process_has_one_row_for_each_listener() {
        // Descriptors of two listeners take turns, and a thread with its own descriptors comes later.
        let rows = [(7, 1, 3), (5, 1, 4), (7, 1, 5), (5, 1, 6), (5, 2, 3), (7, 1, 7), (5, 2, 8)];
        let expected = [(5, 1, 4), (5, 2, 3), (7, 1, 3)];
        let found = survey(rows.map(|(inode, tgid, fd)| row(inode, tgid, fd)), &KeptListeners::new());
        assert_eq!(shown(&found), expected);
    }

    #[test]
    fn a_listener_has_a_bounded_number_of_rows() {
        let many = (1..=10_000).flat_map(|tgid| [row(5, tgid, 3), row(5, tgid, 4)]);
        let found = survey(many.chain([row(7, 10_000, 5)]), &KeptListeners::new());
        assert_eq!(found.rows.len(), MAX_HOLDERS + 1);
        assert_eq!(shown(&found).last(), Some(&(7, 10_000, 5)));
    }

    #[test]
    fn the_owner_of_a_listener_with_many_holders_has_a_row() {
        let kept = [(5, [9000, 9500])].into_iter().collect();
        let found = survey((1..=10_000).map(|tgid| row(5, tgid, 3)), &kept);
        assert_eq!(found.rows.len(), MAX_HOLDERS + 2);
        assert_eq!(shown(&found)[MAX_HOLDERS..], [(5, 9000, 3), (5, 9500, 3)]);
    }

    #[test]
    fn the_memory_of_a_survey_does_not_grow_with_the_listeners() {
        let kept: KeptListeners = [(150_000, [1, 0]), (199_999, [1, 0])].into_iter().collect();
        let found = survey((0..200_000).map(|inode| row(inode, 1, 3)), &kept);
        assert_eq!((found.rows.len(), found.beyond), (MAX_LISTENERS, MAX_COUNTED as u64));
        assert!(found.rows.capacity() <= 2 * MAX_LISTENERS, "{}", found.rows.capacity());
        let last: Vec<u64> = found.rows.iter().rev().take(2).map(|state| state.listener.inode).collect();
        assert_eq!(last, [199_999, 150_000], "listeners that the agent keeps come first");
    }

    #[test]
    fn the_memory_of_a_survey_does_not_grow_with_the_processes() {
        let rows = (1..=1000).flat_map(|tgid| (0..200).map(move |inode| row(inode, tgid, 3)));
        assert_eq!(survey(rows, &KeptListeners::new()).rows.len(), 200 + MAX_FURTHER_ROWS);
    }
}
