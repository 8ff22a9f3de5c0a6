//! Starts the real `acceptd` binary as a child process that exports to an [`Inbox`] in the test process, and
//! stops it again while checking that its ledger adds up.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs::{self, DirEntry},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use acceptd::bpf::Tier;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{inbox::Inbox, stderr_log::StderrLog, wait};

/// The capture tier that the scenarios run with: `ACCEPTD_TEST_TIER`, or 2, which every supported kernel has.
///
/// # Panics
/// If the variable is set to anything but `1` or `2`.
#[must_use]
pub fn tier() -> Tier {
    let set = std::env::var("ACCEPTD_TEST_TIER").unwrap_or_else(|_| "2".to_owned());
    let number: u8 = set.parse().unwrap_or_else(|_| panic!("ACCEPTD_TEST_TIER={set}"));
    Tier::try_from(number).unwrap_or_else(|error| panic!("ACCEPTD_TEST_TIER: {error}"))
}

/// [`tier`] as an argument of the agent's `--set`.
#[must_use]
pub fn tier_setting() -> String {
    format!("capture.tier={}", tier().number())
}

/// How long [`Agent::drop`] waits, after SIGTERM, for the agent of a failed test to exit by itself.
const EXIT_GRACE: Duration = Duration::from_secs(10);

thread_local! {
    /// Missed program runs of the agents that were stopped by this thread.
    static MISSED_RUNS: Cell<u64> = const { Cell::new(0) };
}

/// Returns, and resets, how many runs of their BPF programs the kernel skipped (`hook_missed` in the ledger),
/// summed over the agents that this thread stopped. The events of a skipped run are missing through no fault
/// of the agent.
#[must_use]
pub fn take_missed_runs() -> u64 {
    MISSED_RUNS.take()
}

/// A running `acceptd run`. Dropping it kills the process with SIGKILL.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    /// The receiver that the agent exports to.
    pub inbox: Inbox,
    stderr: StderrLog,
    /// Its configuration file and `state.directory`, removed on drop.
    state_directory: TempDir,
}

impl Agent {
    /// Starts an agent that records every attribute (`--attributes full`) into an [`Inbox`] of its own, and
    /// waits until its programs are attached.
    ///
    /// # Panics
    /// If the binary is not built, or the agent does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::with_flags(&[])
    }

    /// [`Agent::start`] with additional command-line flags, such as `["--set", "events.create=true"]`.
    ///
    /// # Panics
    /// If the binary is not built, or the agent does not start.
    #[must_use]
    pub fn with_flags(flags: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        Self::sending_to(address, Inbox::receive_on(listener), flags)
    }

    /// Starts an agent that exports to `address`, where no receiver needs to listen yet.
    ///
    /// # Panics
    /// If the binary is not built, or the agent does not start.
    #[must_use]
    pub fn sending_to(address: SocketAddr, inbox: Inbox, flags: &[&str]) -> Self {
        Self::configured("", inbox, &[&["--endpoint", &address.to_string()], flags].concat())
    }

    /// Starts an agent whose configuration file has the content `text`. `inbox` is the receiver that
    /// [`Agent::stop`] compares the ledger with.
    ///
    /// # Panics
    /// If the binary is not built, or the agent does not start.
    #[must_use]
    pub fn configured(text: &str, inbox: Inbox, flags: &[&str]) -> Self {
        let state_directory = tempfile::tempdir().expect("a temporary folder");
        let config = config_path(&state_directory);
        fs::write(&config, text).expect("the folder is writable");
        let state = format!("state.directory={}", state_directory.path().display());
        let batch = format!("batch.timeout={}", wait::scaled_timeout(Duration::from_millis(50)));
        let answer = format!("export.timeout={}", wait::scaled_timeout(Duration::from_secs(10)));
        let flush = format!("shutdown.timeout={}", wait::scaled_timeout(Duration::from_secs(5)));
        let mut child = Command::new(binary("acceptd"))
            // Keep the host's configuration and the test's environment out of the agent.
            .env_clear()
            .args(["run", "--attributes", "full"])
            .arg("--config")
            .arg(&config)
            .args(["--set", &state])
            .args(["--set", &batch, "--set", "export.backoff_initial=50ms"])
            .args(["--set", &answer, "--set", &flush])
            .args(["--set", "export.backoff_max=200ms"])
            // Switch sampling off: scenarios expect one record an accept, and several agents run at a time.
            .args(["--set", "overload.max_records_per_second=100000000"])
            .args(["--set", "admin.listen=none", "--set", "metrics.export=false"])
            .args(["--set", "capture.pin_directory=none", "--set", "traces.export=false"])
            .args(["--set", &tier_setting()])
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let stderr = StderrLog::follow(child.stderr.take().expect("piped"));
        let mut agent = Self { child, inbox, stderr, state_directory };
        agent.wait_for_message("captures accepts");
        agent
    }

    /// Replaces the configuration file and sends SIGHUP, which makes the agent reload it.
    ///
    /// # Panics
    /// If the file cannot be written, or the agent is not running.
    pub fn reconfigure(&self, text: &str) {
        fs::write(config_path(&self.state_directory), text).expect("the folder is writable");
        kill_process(self.pid(), Signal::HUP).expect("the agent is running");
    }

    /// Kills the agent with SIGKILL: it gets no chance to flush or to report that it stops.
    ///
    /// # Panics
    /// If the agent is not running.
    pub fn kill(mut self) {
        self.child.kill().expect("the agent is running");
        self.child.wait().expect("waitpid");
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The agent's resident anonymous memory (`RssAnon` in `/proc/PID/status`), in KiB.
    ///
    /// # Panics
    /// If the agent is not running.
    #[must_use]
    pub fn anonymous_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Waits until the agent's stderr contains `words`.
    ///
    /// # Panics
    /// If the agent exits first, or the deadline passes.
    pub fn wait_for_message(&mut self, words: &str) {
        wait::until(&format!("{words:?} in the agent's stderr"), || {
            let status = self.child.try_wait().expect("waitpid");
            let stderr = self.stderr.text();
            assert!(status.is_none(), "the agent exited: {status:?}\n{stderr}");
            stderr.contains(words).then_some(())
        });
    }

    /// Everything that the agent has written to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The numbers that directly follow each occurrence of `words` in the agent's stderr, in order.
    #[must_use]
    pub fn numbers_after(&self, words: &str) -> Vec<f64> {
        let stderr = self.stderr.text();
        let after = stderr.split(words).skip(1);
        after.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
    }

    /// The numbers that directly precede each occurrence of `words` in the agent's stderr, in order.
    #[must_use]
    pub fn numbers_before(&self, words: &str) -> Vec<f64> {
        let stderr = self.stderr.text();
        let before: Vec<_> = stderr.split(words).collect();
        let before = before.iter().take(before.len().saturating_sub(1));
        before.filter_map(|rest| rest.split_whitespace().last()?.parse().ok()).collect()
    }

    /// Stops the agent and returns its ledger, after checking that no event was lost, that every record and
    /// span of the ledger arrived in the inbox, and that all of them conform to otel-config/registry.
    ///
    /// # Panics
    /// If one of these checks fails, and whenever [`Agent::terminate`] panics.
    #[must_use]
    pub fn stop(self) -> Json {
        let inbox = self.inbox.clone();
        let ledger = self.terminate();
        assert_eq!(inbox.violations(), BTreeSet::new(), "otel-config/registry");
        assert_eq!(ledger["capture"]["lost"]["ring"], 0, "{ledger}");
        assert_eq!(ledger["capture"]["malformed"], 0, "{ledger}");
        assert_eq!(ledger["export"]["acknowledged"], ledger["capture"]["records"], "{ledger}");
        assert_eq!(
            ledger["export"]["acknowledged"],
            inbox.records().len(),
            "acknowledged records, and records in the inbox"
        );
        if let Some(spans) = ledger["traces"]["acknowledged"].as_u64() {
            assert_eq!(
                usize::try_from(spans),
                Ok(inbox.spans().len()),
                "acknowledged spans, and spans in the inbox"
            );
            assert_eq!(ledger["traces"]["acknowledged"], ledger["capture"]["spans"], "{ledger}");
        }
        ledger
    }

    /// Stops the agent with SIGTERM and returns its ledger, without requiring that everything was delivered.
    /// The agent itself checks every equation of the ledger and exits with 1 if one does not hold.
    ///
    /// # Panics
    /// If the agent exits with an error, or prints no ledger.
    #[must_use]
    pub fn terminate(mut self) -> Json {
        kill_process(self.pid(), Signal::TERM).expect("the agent is running");
        let status = self.wait_for_exit();
        assert!(status.success(), "{status}\n{}", self.stderr.text());
        let ledger = wait::until("the ledger in the agent's stderr", || self.ledger());
        self.assert_summary_adds_up();
        note_missed_runs(&ledger);
        ledger
    }

    /// # Panics
    /// If the agent is still running after the deadline, with what its threads wait for.
    fn wait_for_exit(&mut self) -> ExitStatus {
        let pid = self.pid();
        let patience = Instant::now() + wait::deadline();
        loop {
            if let Some(status) = self.child.try_wait().expect("waitpid") {
                return status;
            }
            assert!(Instant::now() < patience, "the agent does not exit:\n{}", waiting_threads(pid));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Checks the summary line that the agent prints for its operator: the parts must add up to the events
    /// seen.
    fn assert_summary_adds_up(&self) {
        let stderr = self.stderr.text();
        let words = stderr.lines().find_map(|line| line.split_once(" other events seen: "));
        let (seen, became) = words.unwrap_or_else(|| panic!("no summary line in {stderr}"));
        let sum = |words: &str| words.split(' ').filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
        assert_eq!(sum(seen), sum(became), "{seen} and {became}");
    }

    /// The ledger that the agent prints as JSON when it stops.
    fn ledger(&self) -> Option<Json> {
        let stderr = self.stderr.text();
        serde_json::from_str(stderr.lines().find_map(|line| line.strip_prefix("ledger: "))?).ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // After `stop` the process is gone already. If the test failed, let the agent print its ledger first.
        if thread::panicking() && matches!(self.child.try_wait(), Ok(None)) {
            _ = kill_process(self.pid(), Signal::TERM);
            let patience = Instant::now() + EXIT_GRACE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
                thread::sleep(Duration::from_millis(50));
            }
            // The reader thread needs a moment for the last lines.
            thread::sleep(Duration::from_millis(50));
            self.ledger().as_ref().map(note_missed_runs);
            eprintln!("stderr of the agent:\n{}", self.stderr.text());
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// For each thread of a process, its name and the kernel functions that it waits in.
fn waiting_threads(pid: Pid) -> String {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
    let read = |task: &DirEntry, file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
    tasks.flat_map(|task| [read(&task, "comm"), read(&task, "stack")]).collect()
}

/// Adds a ledger's `hook_missed` to the sum of [`take_missed_runs`].
pub(crate) fn note_missed_runs(ledger: &Json) {
    MISSED_RUNS.set(MISSED_RUNS.get() + skipped_runs(ledger));
}

/// How many runs of the programs the kernel skipped (`hook_missed` in the ledger).
#[must_use]
pub fn skipped_runs(ledger: &Json) -> u64 {
    let by_program = ledger["hook_missed"].as_object();
    by_program.map_or(0, |programs| programs.values().filter_map(Json::as_u64).sum())
}

fn config_path(state_directory: &TempDir) -> PathBuf {
    state_directory.path().join("acceptd.toml")
}

/// The path of a binary of this workspace, which cargo built next to the running test.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let found = test.ancestors().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built; run the tests with `cargo xtask test`"))
}
