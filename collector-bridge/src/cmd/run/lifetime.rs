//! The claim on the state directory, and the heartbeat in it: two small files.
//!
//! The lock keeps a second agent from sending the same accepts. The heartbeat says when the agent last ran:
//! after a crash the next agent computes from it for how long no agent captured.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::{now_boot_nanos, now_unix_nanos};

/// Time between two heartbeats, and so the maximum error of the time that the next agent computes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The file that an agent locks for as long as it runs. It holds the agent's pid.
const LOCK: &str = "lock";

/// The file with the last [`HeartbeatRecord`].
const HEARTBEAT: &str = "heartbeat";

/// Size of the heartbeat file in bytes. The record is padded with spaces and written in place, since a new
/// file every second would cost the disk more.
const HEARTBEAT_BYTES: usize = 256;

/// Why an agent cannot claim the state directory.
#[derive(Debug, Error)]
pub(super) enum LifetimeError {
    /// Another agent has claimed it.
    #[error(
        "another agent{} uses {directory}, so every accept would be sent twice; stop the other agent, or give this one filters (filter.*), or, if duplicates are intended, a state.directory of its own",
        pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Taken {
        /// The state directory.
        directory: String,
        /// The pid of the other agent; `None` if the lock file has none.
        pid: Option<String>,
    },
    /// The directory is not writable.
    #[error(
        "{directory} is not writable: {cause}; a second agent will not be detected, and after a crash the next agent cannot tell how long no agent ran; set state.directory to a writable directory"
    )]
    Unusable {
        /// The state directory.
        directory: String,
        /// The error of the file system.
        cause: io::Error,
    },
}

/// The content of the heartbeat file.
#[derive(Debug, Serialize, Deserialize)]
struct HeartbeatRecord {
    boot_id: String,
    boot_ns: u64,
    unix_ns: u64,
    /// Whether the agent was stopped, and so sent an event about its stop.
    stopped: bool,
}

/// The claim of this agent on the state directory. It ends when the value is dropped.
#[derive(Debug)]
pub(super) struct Lifetime {
    heartbeat: File,
    boot_id: String,
    _lock: File,
}

impl Lifetime {
    /// Claims the directory. Also returns for how long no agent ran; `None` if the previous agent was
    /// stopped, or if there was none.
    ///
    /// # Errors
    /// Another agent has claimed the directory, or the directory is not writable.
    pub(super) fn claim(directory: &Path, boot_id: &str) -> Result<(Self, Option<Duration>), LifetimeError> {
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
        let before: Option<HeartbeatRecord> = serde_json::from_slice(&text).ok();
        let lifetime = Self { heartbeat, boot_id: boot_id.to_owned(), _lock: lock };
        let unobserved =
            before.and_then(|before| unobserved(&before, boot_id, now_boot_nanos(), now_unix_nanos()));
        Ok((lifetime, unobserved))
    }

    /// Starts the heartbeat thread; call it when the agent captures. An agent that fails earlier keeps its
    /// predecessor's gap. The heartbeat has a thread of its own, because a write to a slow disk blocks.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(self) -> io::Result<Heartbeat> {
        let (stop, stopped) = mpsc::channel();
        // A failed write is harmless: the next agent computes a longer gap.
        _ = self.write(false);
        let beat = move || {
            loop {
                match stopped.recv_timeout(INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => _ = self.write(false),
                    Ok(()) => return self.write(true),
                    // The agent ends with an error, and was not stopped.
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        };
        Ok(Heartbeat { stop, thread: thread::Builder::new().name("acceptd-heart".to_owned()).spawn(beat)? })
    }

    fn write(&self, stopped: bool) -> io::Result<()> {
        let record = HeartbeatRecord {
            boot_id: self.boot_id.clone(),
            boot_ns: now_boot_nanos(),
            unix_ns: now_unix_nanos(),
            stopped,
        };
        let mut text = serde_json::to_vec(&record)?;
        text.resize(HEARTBEAT_BYTES, b' ');
        self.heartbeat.write_all_at(&text, 0)
    }
}

/// The heartbeat thread of a running agent. It owns the [`Lifetime`].
#[derive(Debug)]
pub(super) struct Heartbeat {
    stop: Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Heartbeat {
    /// Notes that the agent was stopped, and ends the claim.
    ///
    /// # Errors
    /// The heartbeat file cannot be written.
    pub(super) fn stop(self) -> io::Result<()> {
        // Fails only if the thread has panicked, which `join` reports.
        _ = self.stop.send(());
        self.thread.join().map_err(|_| io::Error::other("the heartbeat thread panicked"))?
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// For how long no agent ran; `None` if the previous agent was stopped. Within one boot the boot clock
/// counts, because it cannot be set; across a reboot, the wall clock.
fn unobserved(before: &HeartbeatRecord, boot_id: &str, boot_ns: u64, unix_ns: u64) -> Option<Duration> {
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

    fn claim(directory: &Path) -> Result<(Lifetime, Option<Duration>), LifetimeError> {
        Lifetime::claim(directory, "boot")
    }

    #[test]
    fn only_an_agent_that_was_not_stopped_leaves_a_gap() {
        let state = tempfile::tempdir().expect("a temporary folder");
        let directory = state.path().join("new");
        let (first, unobserved) = claim(&directory).expect("writable");
        assert_eq!(unobserved, None, "no agent ran before");
        first.start().expect("a thread").stop().expect("writable");
        let (second, unobserved) = claim(&directory).expect("writable");
        assert_eq!(unobserved, None, "it was stopped");
        // As after an error, or after SIGKILL.
        drop(second.start().expect("a thread"));
        thread::sleep(Duration::from_millis(100));
        drop(claim(&directory).expect("writable"));
        let (_third, unobserved) = claim(&directory).expect("writable");
        assert!(
            unobserved.is_some_and(|unobserved| unobserved >= Duration::from_millis(100)),
            "{unobserved:?}"
        );
    }

    #[test]
    fn a_second_agent_is_refused_with_the_pid_of_the_first() {
        let state = tempfile::tempdir().expect("a temporary folder");
        let (_first, _) = claim(state.path()).expect("writable");
        let message = claim(state.path()).expect_err("it is claimed").to_string();
        assert!(message.contains(&format!("pid {}", std::process::id())), "{message}");
        assert!(message.contains("state.directory"), "{message}");
    }

    #[test]
    fn the_boot_clock_counts_within_a_boot_and_the_wall_clock_over_one() {
        let before =
            HeartbeatRecord { boot_id: "boot".to_owned(), boot_ns: 5_000, unix_ns: 1_000, stopped: false };
        assert_eq!(unobserved(&before, "boot", 5_700, 900), Some(Duration::from_nanos(700)));
        assert_eq!(unobserved(&before, "next", 10, 1_300), Some(Duration::from_nanos(300)));
        assert_eq!(unobserved(&before, "next", 10, 900), Some(Duration::ZERO), "the clock was set back");
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let state = tempfile::tempdir().expect("a temporary folder");
        for damage in ["", "{}", "{\"boot_id\":7}", "\0\0"] {
            fs::write(state.path().join(HEARTBEAT), damage).expect("writable");
            let (lifetime, unobserved) = claim(state.path()).expect("writable");
            assert_eq!(unobserved, None, "{damage:?}");
            drop(lifetime);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_with_a_remedy() {
        let message = claim(Path::new("/proc/none")).expect_err("not writable").to_string();
        assert!(message.contains("/proc/none") && message.contains("state.directory"), "{message}");
    }
}
