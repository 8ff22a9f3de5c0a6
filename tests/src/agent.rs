//! A real agent that sends to a real receiver in this process.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use acceptd_otlp::{Received, receiver};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::{record::Record, wait};

/// Requests as they arrived.
#[derive(Debug, Default, Clone)]
pub struct Inbox(Arc<Mutex<Vec<Record>>>);

impl Inbox {
    /// Receives on `listener` for as long as the test's process lives.
    ///
    /// # Panics
    /// When the receiver cannot start.
    #[must_use]
    pub fn on(listener: TcpListener) -> Self {
        let inbox = Self::default();
        let sink = inbox.clone();
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let mut requests = 0;
            let requests = Mutex::new(move || {
                requests += 1;
                requests
            });
            let take = move |received: Received| {
                if let Received::Logs(message) = &received {
                    let number = requests.lock().unwrap_or_else(PoisonError::into_inner)();
                    sink.0
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(Record::of_request(number, message));
                }
                Ok(())
            };
            runtime
                .block_on(receiver::serve(listener, take, std::future::pending()))
                .expect("the receiver runs");
        });
        inbox
    }

    /// Every record so far.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `count` records with this local port are there, and returns them in the order of arrival.
    #[must_use]
    pub fn of_port(&self, port: u16, count: usize) -> Vec<Record> {
        wait::until(&format!("{count} records of port {port}"), || {
            let found: Vec<_> = self.records().into_iter().filter(|record| is_of(record, port)).collect();
            (found.len() >= count).then_some(found)
        })
    }
}

/// Whether a record is of a listener on `port`: by its own address, or the listener's where that is gone.
fn is_of(record: &Record, port: u16) -> bool {
    let port = Some(i64::from(port));
    record.int("network.local.port").or_else(|| record.int("acceptd.listener.port")) == port
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    /// Where its records arrive.
    pub inbox: Inbox,
    stderr: Option<JoinHandle<String>>,
}

impl Agent {
    /// Starts an agent with all attributes, and waits until its programs are attached.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// [`Agent::start`] with more flags.
    ///
    /// # Panics
    /// When there is no agent, or it does not start.
    #[must_use]
    pub fn with(flags: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        Self::sending_to(address, Inbox::on(listener), flags)
    }

    /// An agent that sends to `address`, where nobody needs to listen yet.
    ///
    /// # Panics
    /// When there is no agent, or it does not start.
    #[must_use]
    pub fn sending_to(address: SocketAddr, inbox: Inbox, flags: &[&str]) -> Self {
        let mut child = Command::new(binary("acceptd"))
            .args(["run", "--attributes", "full", "--endpoint", &address.to_string()])
            .args(["--set", "batch.timeout=50ms", "--set", "export.backoff_initial=50ms"])
            .args(["--set", "export.backoff_max=200ms"])
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let stderr = child.stderr.take().expect("piped");
        let stderr = ready(stderr);
        Self { child, inbox, stderr: Some(stderr) }
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Stops the agent, checks its ledger and returns it.
    ///
    /// # Panics
    /// When the agent does not stop cleanly, or its ledger does not add up: the agent itself checks every equation
    /// and exits with 1 if one fails; here the final counts are also held against the agent's own words.
    #[must_use]
    pub fn stop(mut self) -> Json {
        kill_process(self.pid(), Signal::TERM).expect("the agent is there");
        let status = self.child.wait().expect("the agent ends");
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        assert!(status.success(), "{status}\n{stderr}");
        let line = stderr.lines().find_map(|line| line.strip_prefix("ledger: ")).expect("a ledger");
        let ledger: Json = serde_json::from_str(line).expect("the ledger is JSON");
        assert_eq!(ledger["capture"]["lost"]["ring"], 0, "{ledger}");
        assert_eq!(ledger["capture"]["malformed"], 0, "{ledger}");
        assert_eq!(ledger["export"]["acknowledged"], ledger["capture"]["records"], "{ledger}");
        assert_eq!(
            ledger["export"]["acknowledged"],
            self.inbox.records().len(),
            "what arrived is what was sent"
        );
        ledger
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Of a test that failed; after `stop` there is nothing left to end.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Waits for the line that says that the programs are attached, then keeps reading so that the agent never blocks.
fn ready(stderr: ChildStderr) -> JoinHandle<String> {
    let mut lines = BufReader::new(stderr);
    let mut said = String::new();
    loop {
        let mut line = String::new();
        let length = lines.read_line(&mut line).expect("stderr is text");
        assert!(length > 0, "the agent ended at its start:\n{said}");
        said.push_str(&line);
        if line.contains("captures TCP accepts") {
            break;
        }
    }
    thread::spawn(move || {
        _ = lines.read_to_string(&mut said);
        said
    })
}

/// A program of this workspace, built beside this test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let found = test.ancestors().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built; run the tests with `cargo xtask test`"))
}
