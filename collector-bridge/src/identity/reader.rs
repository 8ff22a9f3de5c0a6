//! Threads that read what processes publish of themselves, and how they were started. To read a process's memory takes as long as the process wants, so it
//! is never waited for: who hangs in it is left there, and another thread takes over, so long as there are not too many.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{
            Receiver, SyncSender, TrySendError, {self},
        },
    },
    thread,
    time::{Duration, Instant},
};

use acceptd_otlp::Details;

use super::{
    ProcessKey, details,
    folder::Folder,
    process::without_deleted,
    published::{
        Published, {self},
    },
};
use crate::config::Detail;

/// Processes that wait to be read. One that does not find room is asked for again at a later record of it.
const WAITING: usize = 1024;

/// Answers that wait to be taken: each can hold as much as a process made of it.
const ANSWERS: usize = 64;

/// After so long a thread hangs.
const HANGS_AFTER: Duration = Duration::from_secs(1);

/// Most threads, hanging ones among them.
const THREADS: usize = 4;

/// Who is asked.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) key: ProcessKey,
    /// The path of its executable, and where its arguments are. A process that runs another program by now, also one of the same
    /// executable, does not answer for it.
    pub(super) executable: Vec<u8>,
    pub(super) arg_start: u64,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) key: ProcessKey,
    pub(super) published: Published,
    pub(super) details: Details,
}

/// What is looked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) published: bool,
    pub(super) details: Vec<Detail>,
}

/// The threads, and what is under way.
#[derive(Debug)]
pub(super) struct Readers {
    requests: SyncSender<Question>,
    answers: Receiver<Answer>,
    /// What a further thread needs.
    worker: Worker,
    /// Since when each thread reads, in nanoseconds after `began` and one; 0 when it does not.
    busy: Vec<Arc<AtomicU64>>,
    began: Instant,
    hangs_after: Duration,
    has_given_up: bool,
}

#[derive(Debug, Clone)]
struct Worker {
    proc: PathBuf,
    requests: Arc<Mutex<Receiver<Question>>>,
    answers: SyncSender<Answer>,
    wanted: Wanted,
    began: Instant,
}

impl Readers {
    /// Readers of the processes under `proc`. The first thread starts with the first question.
    pub(super) fn new(proc: &Path, wanted: Wanted) -> Self {
        Self::with_patience(proc, wanted, HANGS_AFTER)
    }

    fn with_patience(proc: &Path, wanted: Wanted, hangs_after: Duration) -> Self {
        let (requests, asked) = mpsc::sync_channel(WAITING);
        let (answered, answers) = mpsc::sync_channel(ANSWERS);
        let began = Instant::now();
        let (proc, requests_of_worker) = (proc.to_owned(), Arc::new(Mutex::new(asked)));
        let worker = Worker { proc, requests: requests_of_worker, answers: answered, wanted, began };
        Self { requests, answers, worker, busy: Vec::new(), began, hangs_after, has_given_up: false }
    }

    /// Asks for a process; never waits. False when it is not asked.
    pub(super) fn ask(&mut self, question: Question) -> bool {
        self.hire();
        match self.requests.try_send(question) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// An answer that has come.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }

    /// Starts a thread when each of those there are hangs.
    fn hire(&mut self) {
        let (now, hangs_after) = (since(self.began), self.hangs_after.as_nanos());
        let hangs = |busy: &AtomicU64| {
            let began = busy.load(Ordering::Acquire);
            began != 0 && u128::from(now.saturating_sub(began)) > hangs_after
        };
        if !self.busy.iter().all(|busy| hangs(busy)) {
            return;
        }
        if self.busy.len() >= THREADS {
            if !std::mem::replace(&mut self.has_given_up, true) {
                tracing::warn!(
                    "{THREADS} processes do not let their memory be read, or hang in the kernel: until one does, what processes publish and resource.include is not seen; resource.published = false and an empty resource.include stop asking"
                );
            }
            return;
        }
        let busy = Arc::new(AtomicU64::new(0));
        let (worker, mark) = (self.worker.clone(), Arc::clone(&busy));
        let spawned =
            thread::Builder::new().name("acceptd-reader".to_owned()).spawn(move || worker.work(&mark));
        match spawned {
            Ok(_) => self.busy.push(busy),
            Err(error) => tracing::debug!("no thread to read what processes publish: {error}"),
        }
    }
}

impl Worker {
    fn work(&self, busy: &AtomicU64) {
        loop {
            let asked = self.requests.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(question) = asked else { return };
            busy.store(since(self.began), Ordering::Release);
            let (published, details) = self.read(&question).unwrap_or_default();
            busy.store(0, Ordering::Release);
            if self.answers.send(Answer { key: question.key, published, details }).is_err() {
                return;
            }
        }
    }

    fn read(&self, Question { key, executable, arg_start }: &Question) -> Option<(Published, Details)> {
        let folder = Folder::of(&self.proc, key.tgid, key.leader_start_ns)?;
        let published = if self.wanted.published { published::of(&folder) } else { Published::new() };
        let details = details::of(&folder, &self.wanted.details);
        // Now, behind all that was read.
        let is_same = without_deleted(folder.link("exe")?) == *executable && folder.arg_start() == *arg_start;
        is_same.then_some((published, details))
    }
}

fn since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);
    const NAMES: Wanted = Wanted { published: true, details: Vec::new() };

    fn question(tgid: u32) -> Question {
        let key = ProcessKey { tgid, leader_start_ns: 0, exec_id: 0, euid: 0, uid: 0 };
        Question { key, executable: b"/bin/server".to_vec(), arg_start: 0 }
    }

    /// A process of that pid, started with the host; its environment is a pipe, at which a reader hangs until somebody writes.
    fn hanging(proc: &Path, pid: u32) -> PathBuf {
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
        let folder = proc.join(pid.to_string());
        fs::create_dir(&folder).expect("a new folder");
        let stat = format!("{pid} (x) S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0");
        fs::write(folder.join("stat"), stat).expect("writable");
        symlink("/bin/server", folder.join("exe")).expect("a new link");
        folder
    }

    fn answer(readers: &Readers, within: Duration) -> Option<(u32, Option<String>)> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(Answer { key, published, .. }) = readers.answer() {
                return Some((key.tgid, published.get("service.name").cloned()));
            }
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn who_hangs_holds_up_nobody_until_there_are_too_many() {
        let proc = tempfile::tempdir().expect("a temporary folder");
        let pipes = [1, 2, 3, 4].map(|pid| hanging(proc.path(), pid));
        named(proc.path(), 7, "shop");
        named(proc.path(), 8, "till");
        let mut readers = Readers::with_patience(proc.path(), NAMES, PATIENCE);
        let long = Duration::from_secs(10);
        for hanging in 1..=3 {
            assert!(readers.ask(question(hanging)));
            thread::sleep(2 * PATIENCE);
            assert!(readers.ask(question(7)));
            assert_eq!(answer(&readers, long), Some((7, Some("shop".to_owned()))), "beside {hanging}");
        }
        assert!(readers.ask(question(4)));
        thread::sleep(2 * PATIENCE);
        assert!(readers.ask(question(8)));
        assert_eq!((answer(&readers, 4 * PATIENCE), readers.busy.len()), (None, THREADS));
        assert!(readers.has_given_up);
        // One comes back.
        fs::write(&pipes[0], "OTEL_SERVICE_NAME=slow\0").expect("somebody reads");
        let both = [answer(&readers, long), answer(&readers, long)];
        let expected = [(1, Some("slow".to_owned())), (8, Some("till".to_owned()))];
        assert_eq!(both, expected.map(Some));
    }

    #[test]
    fn another_process_and_another_program_do_not_answer() {
        let proc = tempfile::tempdir().expect("a temporary folder");
        named(proc.path(), 7, "shop");
        let mut readers = Readers::new(proc.path(), NAMES);
        let mut other = question(7);
        other.key.leader_start_ns = 10_000_000;
        let execed = Question { executable: b"/bin/before".to_vec(), ..question(7) };
        let again = Question { arg_start: 4096, ..question(7) };
        for another in [other, execed, again] {
            assert!(readers.ask(another));
            assert_eq!(answer(&readers, Duration::from_secs(10)), Some((7, None)));
        }
        assert!(readers.ask(question(7)));
        assert_eq!(answer(&readers, Duration::from_secs(10)), Some((7, Some("shop".to_owned()))));
    }
}
