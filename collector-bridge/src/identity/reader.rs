//! The reader threads: read from a process's memory what the process publishes about itself and how it was
//! started.
//!
//! Such a read can block for as long as the process wants, so no other thread waits for it. A reader thread
//! that blocks is left alone and another one is started, up to [`MAX_THREADS`].

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use acceptd_otlp::ProcessDetails;

use super::{
    details,
    key::ProcessKey,
    proc_dir::{self, ProcDir},
    published::{self, PublishedAttributes},
};
use crate::{bpf::kernel_path::without_deleted, config::Detail};

/// Most requests in the queue. A process that does not fit is requested again at a later event.
const MAX_REQUESTS: usize = 1024;

/// Most results in the queue, because each can be as large as a process makes it.
const MAX_RESULTS: usize = 64;

/// After this time in one read a thread counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Most threads, stuck ones included.
const MAX_THREADS: usize = 4;

/// Most parents whose environment is read.
const MAX_PARENTS: usize = 8;

/// A process to read.
#[derive(Debug)]
pub(super) struct ReadRequest {
    pub(super) key: ProcessKey,
    /// The path of the executable at the accept. Together with `arg_start` it shows whether the process has
    /// called exec since, even of the same executable; then the result is empty.
    pub(super) executable: Vec<u8>,
    /// The address of the arguments in the process's memory at the accept.
    pub(super) arg_start: u64,
}

/// The result of reading one process; empty if the process has exited or called exec.
#[derive(Debug)]
pub(super) struct ReadResult {
    pub(super) key: ProcessKey,
    /// The attributes in its environment, or in that of a parent which runs the same program.
    pub(super) environment: PublishedAttributes,
    /// Whether the environment counts for every process with the same `arg_start`: addresses are random.
    pub(super) is_random: bool,
    /// The attributes in its process context.
    pub(super) context: PublishedAttributes,
    pub(super) details: ProcessDetails,
}

/// The parts of each process to read.
#[derive(Debug, Clone)]
pub(super) struct ReadScope {
    /// Whether to read what processes publish about themselves.
    pub(super) published: bool,
    /// The details of how processes were started.
    pub(super) details: Vec<Detail>,
}

/// The reader threads and their queues.
#[derive(Debug)]
pub(super) struct ReaderPool {
    requests: SyncSender<ReadRequest>,
    results: Receiver<ReadResult>,
    /// Cloned for each new thread.
    worker: Worker,
    /// For each thread, when its current read began: nanoseconds since `epoch`, plus one; 0 while the thread
    /// is idle.
    busy_since: Vec<Arc<AtomicU64>>,
    epoch: Instant,
    stuck_after: Duration,
    /// Whether the warning that all threads are stuck was logged.
    has_warned: bool,
}

/// The state of one reader thread.
#[derive(Debug, Clone)]
struct Worker {
    proc: PathBuf,
    requests: Arc<Mutex<Receiver<ReadRequest>>>,
    results: SyncSender<ReadResult>,
    scope: ReadScope,
    /// Whether the kernel places programs at random addresses.
    is_random: bool,
    epoch: Instant,
}

impl ReaderPool {
    /// Readers of the processes under `proc`. The first thread starts at the first request.
    pub(super) fn new(proc: &Path, scope: ReadScope) -> Self {
        Self::with_stuck_after(proc, scope, STUCK_AFTER)
    }

    fn with_stuck_after(proc: &Path, scope: ReadScope, stuck_after: Duration) -> Self {
        let (requests, worker_requests) = mpsc::sync_channel(MAX_REQUESTS);
        let (worker_results, results) = mpsc::sync_channel(MAX_RESULTS);
        let epoch = Instant::now();
        let worker = Worker {
            proc: proc.to_owned(),
            requests: Arc::new(Mutex::new(worker_requests)),
            results: worker_results,
            scope,
            is_random: proc_dir::randomizes_addresses(proc),
            epoch,
        };
        Self { requests, results, worker, busy_since: Vec::new(), epoch, stuck_after, has_warned: false }
    }

    /// Queues a request; never waits. Returns false if the queue is full.
    pub(super) fn request(&mut self, request: ReadRequest) -> bool {
        self.start_thread_if_all_are_stuck();
        match self.requests.try_send(request) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Whether what processes publish is read, and the environment of one process counts for those with the
    /// same addresses.
    pub(super) fn shares_environments(&self) -> bool {
        self.worker.scope.published && self.worker.is_random
    }

    /// The next result, if there is one; never waits.
    pub(super) fn try_next(&self) -> Option<ReadResult> {
        self.results.try_recv().ok()
    }

    fn start_thread_if_all_are_stuck(&mut self) {
        let (now, stuck_after) = (ticks_since(self.epoch), self.stuck_after.as_nanos());
        let is_stuck = |busy_since: &AtomicU64| {
            let since = busy_since.load(Ordering::Acquire);
            since != 0 && u128::from(now.saturating_sub(since)) > stuck_after
        };
        if !self.busy_since.iter().all(|busy_since| is_stuck(busy_since)) {
            return;
        }
        if self.busy_since.len() >= MAX_THREADS {
            if !std::mem::replace(&mut self.has_warned, true) {
                tracing::warn!(
                    "acceptd cannot read what processes publish, nor what resource.include asks for: reading the memory of {MAX_THREADS} processes does not return; this lasts until one of these reads returns; to stop reading, set resource.published = false and empty resource.include"
                );
            }
            return;
        }
        let busy_since = Arc::new(AtomicU64::new(0));
        let (worker, own_busy_since) = (self.worker.clone(), Arc::clone(&busy_since));
        let spawned = thread::Builder::new()
            .name("acceptd-reader".to_owned())
            .spawn(move || worker.run(&own_busy_since));
        match spawned {
            Ok(_) => self.busy_since.push(busy_since),
            Err(error) => tracing::debug!("cannot start a thread to read what processes publish: {error}"),
        }
    }
}

impl Worker {
    /// Serves requests until the pool is dropped.
    fn run(&self, busy_since: &AtomicU64) {
        loop {
            let received = self.requests.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(request) = received else { return };
            busy_since.store(ticks_since(self.epoch), Ordering::Release);
            let result = self.read(&request).unwrap_or_else(|| ReadResult::empty(request.key));
            busy_since.store(0, Ordering::Release);
            if self.results.send(result).is_err() {
                return;
            }
        }
    }

    fn read(&self, request: &ReadRequest) -> Option<ReadResult> {
        let ReadRequest { key, .. } = request;
        let dir = ProcDir::open_if_started_at(&self.proc, key.tgid, key.leader_start_ns)?;
        if !request.is_program_of(&dir) {
            return None;
        }
        let mut result = ReadResult::empty(*key);
        if self.scope.published {
            result.environment = published::read_environment(&dir);
            if result.environment.is_empty() {
                result.environment = self.environment_of_parent(&dir, request).unwrap_or_default();
            }
            result.is_random = self.is_random && dir.has_random_addresses();
            result.context = published::read_context(&dir);
        }
        result.details = details::read_details(&dir, &self.scope.details);
        // Checked again, so that it holds for everything that was read. A process that has ended meanwhile,
        // as the first one of a daemon does, ran that program to the end.
        (dir.link("exe").is_none() || request.is_program_of(&dir)).then_some(result)
    }

    /// The attributes in the environment of the closest parent that has some, as far as the parents run the
    /// same program: a server that shows a title has written it over its own environment.
    fn environment_of_parent(&self, dir: &ProcDir, request: &ReadRequest) -> Option<PublishedAttributes> {
        let mut parent = ProcDir::open(&self.proc, dir.parent()?).ok()?;
        for _ in 0..MAX_PARENTS {
            let environment = published::read_environment(&parent);
            if !request.is_program_of(&parent) {
                return None;
            }
            if !environment.is_empty() {
                return Some(environment);
            }
            parent = ProcDir::open(&self.proc, parent.parent()?).ok()?;
        }
        None
    }
}

impl ReadRequest {
    /// Whether the process runs the program that was started with the same call of exec.
    fn is_program_of(&self, dir: &ProcDir) -> bool {
        dir.link("exe").is_some_and(|path| without_deleted(&path) == self.executable)
            && dir.arg_start() == self.arg_start
    }
}

impl ReadResult {
    fn empty(key: ProcessKey) -> Self {
        Self {
            key,
            environment: PublishedAttributes::new(),
            is_random: false,
            context: PublishedAttributes::new(),
            details: ProcessDetails::default(),
        }
    }
}

/// Nanoseconds since `epoch`, plus one, so that the result is never 0.
fn ticks_since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use super::*;

    const STUCK: Duration = Duration::from_millis(50);
    const PUBLISHED: ReadScope = ReadScope { published: true, details: Vec::new() };

    fn request(tgid: u32) -> ReadRequest {
        let key = ProcessKey { tgid, leader_start_ns: 0, exec_id: 0, euid: 0, uid: 0 };
        ReadRequest { key, executable: b"/bin/server".to_vec(), arg_start: 0 }
    }

    /// A process that was started at boot. Its environment is a pipe, so that a reader blocks until the test
    /// writes to it.
    fn blocked(proc: &Path, pid: u32) -> PathBuf {
        let folder = process(proc, pid);
        let pipe = folder.join("environ");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()));
        pipe
    }

    fn named(proc: &Path, pid: u32, name: &str) {
        fs::write(process(proc, pid).join("environ"), format!("OTEL_SERVICE_NAME={name}\0"))
            .expect("writable");
    }

    fn process(proc: &Path, pid: u32) -> PathBuf {
        child_of(proc, pid, 1)
    }

    fn child_of(proc: &Path, pid: u32, parent: u32) -> PathBuf {
        let folder = proc.join(pid.to_string());
        fs::create_dir(&folder).expect("a new folder");
        let stat = format!("{pid} (x) S {parent} 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0");
        fs::write(folder.join("stat"), stat).expect("writable");
        symlink("/bin/server", folder.join("exe")).expect("a new link");
        folder
    }

    fn answer(readers: &ReaderPool, within: Duration) -> Option<(u32, Option<String>)> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(ReadResult { key, environment, .. }) = readers.try_next() {
                return Some((key.tgid, environment.get("service.name").cloned()));
            }
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_blocked_read_delays_no_other_until_all_threads_are_stuck() {
        let proc = tempfile::tempdir().expect("a temporary folder");
        let pipes = [1, 2, 3, 4].map(|pid| blocked(proc.path(), pid));
        named(proc.path(), 7, "shop");
        named(proc.path(), 8, "till");
        let mut readers = ReaderPool::with_stuck_after(proc.path(), PUBLISHED, STUCK);
        let long = Duration::from_secs(10);
        for pid in 1..=3 {
            assert!(readers.request(request(pid)));
            thread::sleep(2 * STUCK);
            assert!(readers.request(request(7)));
            assert_eq!(answer(&readers, long), Some((7, Some("shop".to_owned()))), "beside {pid}");
        }
        assert!(readers.request(request(4)));
        thread::sleep(2 * STUCK);
        assert!(readers.request(request(8)));
        assert_eq!((answer(&readers, 4 * STUCK), readers.busy_since.len()), (None, MAX_THREADS));
        assert!(readers.has_warned);
        // One read returns.
        fs::write(&pipes[0], "OTEL_SERVICE_NAME=slow\0").expect("a thread reads");
        let both = [answer(&readers, long), answer(&readers, long)];
        let expected = [(1, Some("slow".to_owned())), (8, Some("till".to_owned()))];
        assert_eq!(both, expected.map(Some));
    }

    #[test]
    fn a_title_over_the_environment_leaves_that_of_the_parent() {
        let proc = tempfile::tempdir().expect("a temporary folder");
        named(proc.path(), 7, "shop");
        // 8 and 9 overwrote theirs; 10 is a child of another program.
        let other = process(proc.path(), 6);
        fs::remove_file(other.join("exe")).expect("a link");
        symlink("/bin/sh", other.join("exe")).expect("a new link");
        fs::write(other.join("environ"), "OTEL_SERVICE_NAME=shell\0").expect("writable");
        for (pid, parent) in [(8, 7), (9, 8), (10, 6)] {
            let folder = child_of(proc.path(), pid, parent);
            fs::write(folder.join("environ"), "server: worker process\0\0\0").expect("writable");
        }
        let mut readers = ReaderPool::new(proc.path(), PUBLISHED);
        for (pid, name) in [(8, Some("shop")), (9, Some("shop")), (10, None)] {
            assert!(readers.request(request(pid)));
            let expected = Some((pid, name.map(str::to_owned)));
            assert_eq!(answer(&readers, Duration::from_secs(10)), expected);
        }
    }

    #[test]
    fn a_reused_pid_and_an_exec_give_no_result() {
        let proc = tempfile::tempdir().expect("a temporary folder");
        named(proc.path(), 7, "shop");
        let mut readers = ReaderPool::new(proc.path(), PUBLISHED);
        let mut other = request(7);
        other.key.leader_start_ns = 10_000_000;
        let execed = ReadRequest { executable: b"/bin/before".to_vec(), ..request(7) };
        let again = ReadRequest { arg_start: 4096, ..request(7) };
        for another in [other, execed, again] {
            assert!(readers.request(another));
            assert_eq!(answer(&readers, Duration::from_secs(10)), Some((7, None)));
        }
        assert!(readers.request(request(7)));
        assert_eq!(answer(&readers, Duration::from_secs(10)), Some((7, Some("shop".to_owned()))));
    }
}
