//! Until when the agent before this one ran, and whether another one runs now: two small files in `state.directory`.
//!
//! An agent that nobody stopped leaves a time in which nobody counted. The next one tells how long that was.

use std::{
    fs::{
        File, OpenOptions, {self},
    },
    io::{
        Read as _, Write as _, {self},
    },
    os::unix::fs::FileExt as _,
    path::Path,
    sync::mpsc::{
        RecvTimeoutError, Sender, {self},
    },
    thread::{
        JoinHandle, {self},
    },
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::{now_boot_nanos, now_unix_nanos};

/// How often the agent says that it runs: by so much its successor may take it for dead too early.
const BEAT: Duration = Duration::from_secs(1);

/// The lock that an agent holds as long as it runs.
const LOCK: &str = "lock";

/// What the agent says of itself.
const HEARTBEAT: &str = "heartbeat";

/// Bytes of that: the file is written in place, with spaces at its end, since a new one each second would cost the disk more.
const HEARTBEAT_BYTES: usize = 256;

/// Why an agent cannot have the state directory.
#[derive(Debug, Error)]
pub enum LifetimeError {
    /// Somebody else has it.
    #[error(
        "another agent{} has {directory}: both would send every accept; stop it, or give this one filters (filter.*), or, if that is wanted, a state.directory of its own",
        pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Taken {
        /// The state directory.
        directory: String,
        /// Who, as it said itself.
        pid: Option<String>,
    },
    /// It cannot be written.
    #[error(
        "{directory} cannot be written: {cause}; a second agent is not noticed, nor is the time in which none runs; set state.directory to a writable folder"
    )]
    Unusable {
        /// The state directory.
        directory: String,
        /// Why not.
        cause: io::Error,
    },
}

/// The last sign of life of an agent.
#[derive(Debug, Serialize, Deserialize)]
struct Heartbeat {
    boot_id: String,
    boot_ns: u64,
    unix_ns: u64,
    /// Whether it was stopped, and had told that.
    stopped: bool,
}

/// The time of this agent, as long as the value lives.
#[derive(Debug)]
pub struct Lifetime {
    heartbeat: File,
    boot_id: String,
    _lock: File,
}

impl Lifetime {
    /// Begins one; and says for how long no agent ran, if the one before was not stopped.
    ///
    /// # Errors
    /// Another agent runs with this directory, or it cannot be written.
    pub fn begin(directory: &Path, boot_id: &str) -> Result<(Self, Option<Duration>), LifetimeError> {
        let shown = || directory.display().to_string();
        let unusable = |cause| LifetimeError::Unusable { directory: shown(), cause };
        fs::create_dir_all(directory).map_err(unusable)?;
        let mut lock = open(&directory.join(LOCK)).map_err(unusable)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(unusable(error.into()));
            }
            let mut pid = String::new();
            let pid = lock.read_to_string(&mut pid).is_ok_and(|_| !pid.is_empty()).then_some(pid);
            return Err(LifetimeError::Taken { directory: shown(), pid });
        }
        lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(unusable)?;
        let mut heartbeat = open(&directory.join(HEARTBEAT)).map_err(unusable)?;
        let mut text = Vec::new();
        heartbeat.read_to_end(&mut text).map_err(unusable)?;
        let before = serde_json::from_slice(&text).ok();
        let lifetime = Self { heartbeat, boot_id: boot_id.to_owned(), _lock: lock };
        let blind = before.and_then(|before| blind(&before, boot_id, now_boot_nanos(), now_unix_nanos()));
        Ok((lifetime, blind))
    }

    /// The agent captures: says so from now on, in a thread of its own (the disk may take its time). Who never came so far leaves
    /// the gap of the one before as it is.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn go_on(self) -> io::Result<Heart> {
        let (stop, stopped) = mpsc::channel();
        // A disk that is full says nothing of the agent; the gap only seems longer later.
        _ = self.say(false);
        let beats = move || {
            loop {
                match stopped.recv_timeout(BEAT) {
                    Err(RecvTimeoutError::Timeout) => _ = self.say(false),
                    Ok(()) => return self.say(true),
                    // The agent ends in another way than by being stopped.
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        };
        Ok(Heart { stop, thread: thread::Builder::new().name("acceptd-heart".to_owned()).spawn(beats)? })
    }

    fn say(&self, stopped: bool) -> io::Result<()> {
        let heartbeat = Heartbeat {
            boot_id: self.boot_id.clone(),
            boot_ns: now_boot_nanos(),
            unix_ns: now_unix_nanos(),
            stopped,
        };
        let mut text = serde_json::to_vec(&heartbeat)?;
        text.resize(HEARTBEAT_BYTES, b' ');
        self.heartbeat.write_all_at(&text, 0)
    }
}

/// A [`Lifetime`] that goes on.
#[derive(Debug)]
pub struct Heart {
    stop: Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Heart {
    /// The agent was stopped, and has told so.
    ///
    /// # Errors
    /// The file system's.
    pub fn end(self) -> io::Result<()> {
        // A thread that is gone says so below.
        _ = self.stop.send(());
        self.thread.join().map_err(|_| io::Error::other("the thread died"))?
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// For how long no agent ran: by the boot clock, which nobody sets, or over a boot by the wall clock.
fn blind(before: &Heartbeat, boot_id: &str, boot_ns: u64, unix_ns: u64) -> Option<Duration> {
    if before.stopped {
        return None;
    }
    let (then, now) =
        if before.boot_id == boot_id { (before.boot_ns, boot_ns) } else { (before.unix_ns, unix_ns) };
    Some(Duration::from_nanos(now.saturating_sub(then)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(directory: &Path) -> Result<(Lifetime, Option<Duration>), LifetimeError> {
        Lifetime::begin(directory, "boot")
    }

    #[test]
    fn only_who_was_not_stopped_leaves_a_gap() {
        let state = tempfile::tempdir().expect("a temporary folder");
        let directory = state.path().join("new");
        let (first, blind) = begin(&directory).expect("writable");
        assert_eq!(blind, None, "nobody ran before");
        first.go_on().expect("a thread").end().expect("writable");
        let (second, blind) = begin(&directory).expect("writable");
        assert_eq!(blind, None, "it was stopped");
        // As an error ends it, or the kernel.
        drop(second.go_on().expect("a thread"));
        thread::sleep(Duration::from_millis(100));
        drop(begin(&directory).expect("writable"));
        let (_third, blind) = begin(&directory).expect("writable");
        assert!(blind.is_some_and(|blind| blind >= Duration::from_millis(100)), "{blind:?}");
    }

    #[test]
    fn a_second_agent_is_refused_with_the_pid_of_the_first() {
        let state = tempfile::tempdir().expect("a temporary folder");
        let (_first, _) = begin(state.path()).expect("writable");
        let said = begin(state.path()).expect_err("it is taken").to_string();
        assert!(said.contains(&format!("pid {}", std::process::id())), "{said}");
        assert!(said.contains("state.directory"), "{said}");
    }

    #[test]
    fn the_boot_clock_counts_within_a_boot_and_the_wall_clock_over_one() {
        let before = Heartbeat { boot_id: "boot".to_owned(), boot_ns: 5_000, unix_ns: 1_000, stopped: false };
        assert_eq!(blind(&before, "boot", 5_700, 900), Some(Duration::from_nanos(700)));
        assert_eq!(blind(&before, "next", 10, 1_300), Some(Duration::from_nanos(300)));
        assert_eq!(blind(&before, "next", 10, 900), Some(Duration::ZERO), "the clock was set back");
    }

    #[test]
    fn a_damaged_file_is_no_sign_of_life() {
        let state = tempfile::tempdir().expect("a temporary folder");
        for damage in ["", "{}", "{\"boot_id\":7}", "\0\0"] {
            fs::write(state.path().join(HEARTBEAT), damage).expect("writable");
            let (lifetime, blind) = begin(state.path()).expect("writable");
            assert_eq!(blind, None, "{damage:?}");
            drop(lifetime);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_with_a_remedy() {
        let said = begin(Path::new("/proc/none")).expect_err("not writable").to_string();
        assert!(said.contains("/proc/none") && said.contains("state.directory"), "{said}");
    }
}
