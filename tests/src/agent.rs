//! A real agent that sends to a real receiver in this process.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use acceptd::bpf::Tier;
use acceptd_otlp::{Received, names::EVENTS, receiver};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{
    record::{Record, Span},
    registry, wait,
};

/// Requests as they arrived.
#[derive(Debug, Default, Clone)]
pub struct Inbox {
    records: Arc<Mutex<Vec<Record>>>,
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    /// What is not as the registry has it.
    violations: Arc<Mutex<BTreeSet<String>>>,
}

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
                let violations = match &received {
                    Received::Logs(message) => registry::of_logs(message),
                    Received::Traces(message) => registry::of_traces(message),
                    Received::Metrics(message) => registry::of_metrics(message),
                };
                sink.violations.lock().unwrap_or_else(PoisonError::into_inner).extend(violations);
                // Without records it only asks whether somebody takes them.
                if let Received::Logs(message) = &received
                    && received.records() > 0
                {
                    note_events(message);
                    let number = requests.lock().unwrap_or_else(PoisonError::into_inner)();
                    let mut records = sink.records.lock().unwrap_or_else(PoisonError::into_inner);
                    records.extend(Record::of_request(number, message));
                }
                if let Received::Traces(message) = &received {
                    sink.spans
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(Span::of_request(message));
                }
                if let Received::Metrics(message) = received {
                    sink.metrics.lock().unwrap_or_else(PoisonError::into_inner).push(message);
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
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What arrived that is not as the registry has it.
    #[must_use]
    pub fn violations(&self) -> BTreeSet<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every span so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the trace with this id has `count` spans, and returns them by name.
    #[must_use]
    pub fn trace(&self, id: &[u8], count: usize) -> BTreeMap<String, Span> {
        wait::until_ok(|| {
            let found = self.spans().into_iter().filter(|span| span.span.trace_id == id);
            let found: Vec<_> = found.map(|span| (span.span.name.clone(), span)).collect();
            let names: Vec<_> = found.iter().map(|(name, _)| name.clone()).collect();
            if names.len() >= count {
                Ok(found.into_iter().collect())
            } else {
                Err(format!("only {names:?}"))
            }
        })
    }

    /// Every request of metrics so far.
    #[must_use]
    pub fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last request of metrics. Not all of them: that is much to copy again and again.
    #[must_use]
    pub fn last_metrics(&self) -> Option<ExportMetricsServiceRequest> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// How many records arrived.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until `count` accepts with this local port are there, and returns them in the order in which they happened.
    #[must_use]
    pub fn of_port(&self, port: u16, count: usize) -> Vec<Record> {
        self.of_event(ACCEPT, count, |record| record.is_of_port(port))
    }

    /// Waits until `count` records of an event that `of` knows are there, and returns them in the order in which they
    /// happened.
    ///
    /// # Panics
    /// When they do not come.
    #[must_use]
    pub fn of_event(&self, name: &str, count: usize, of: impl Fn(&Record) -> bool) -> Vec<Record> {
        let (mut arrived, mut since) = (0, Instant::now());
        wait::until_ok(|| {
            let found = self.found(name, &of);
            if found.len() > arrived {
                (arrived, since) = (found.len(), Instant::now());
            }
            // Where some arrived the others are not far, or do not come.
            let comes = arrived == 0 || since.elapsed() < wait::deadline() / 2;
            assert!(comes, "no more than {arrived} of {count} records of {name}");
            if arrived >= count { Ok(found) } else { Err(format!("{arrived} of {count} records of {name}")) }
        })
    }

    /// The records of an event that `of` knows, when `count` are there or no more come.
    #[must_use]
    pub fn settled(&self, name: &str, count: usize, of: impl Fn(&Record) -> bool) -> Vec<Record> {
        let (mut arrived, mut since) = (0, Instant::now());
        wait::until("records come to an end", || {
            let found = self.found(name, &of);
            if found.len() > arrived {
                (arrived, since) = (found.len(), Instant::now());
            }
            (found.len() >= count || since.elapsed() > wait::deadline() / 10).then_some(found)
        })
    }

    /// The records of an event that are there by now and that `of` knows. The agent has two requests under way at a time
    /// (`export.concurrency`), so they arrive in any order; here they are in that in which they happened.
    #[must_use]
    pub fn found(&self, name: &str, of: impl Fn(&Record) -> bool) -> Vec<Record> {
        let is_wanted = |record: &Record| record.log.event_name == name && of(record);
        let mut found: Vec<_> = self.records().into_iter().filter(is_wanted).collect();
        found.sort_by_key(|record| record.log.time_unix_nano);
        found
    }
}

/// The names of all events that arrived anywhere in this process.
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn note_events(message: &ExportLogsServiceRequest) {
    let records = message.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    let names = records.flat_map(|scope| &scope.log_records).map(|record| record.event_name.clone());
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
}

/// Events of the catalogue that did not arrive anywhere in this process.
#[must_use]
pub fn unseen_events() -> Vec<&'static str> {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    EVENTS.iter().map(|event| event.name).filter(|name| !seen.contains(*name)).collect()
}

/// The tier that the scenarios are to see: `ACCEPTD_TEST_TIER`, or 2, which every machine allows.
///
/// # Panics
/// When the variable names no tier.
#[must_use]
pub fn tier() -> Tier {
    let set = std::env::var("ACCEPTD_TEST_TIER").unwrap_or_else(|_| "2".to_owned());
    let number: u8 = set.parse().unwrap_or_else(|_| panic!("ACCEPTD_TEST_TIER={set}"));
    Tier::try_from(number).unwrap_or_else(|error| panic!("ACCEPTD_TEST_TIER: {error}"))
}

/// [`tier`] as the agent reads it.
#[must_use]
pub fn tier_setting() -> String {
    format!("capture.tier={}", tier().number())
}

/// The event of an accept.
pub const ACCEPT: &str = "acceptd.socket.accept";

/// How long the agent of a test that failed may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(10);

thread_local! {
    /// Of the agents that ended in this thread.
    static LEFT_OUT: Cell<u64> = const { Cell::new(0) };
}

/// Takes how many runs of their programs the kernel left out, of the agents that ended in this thread since it was asked last:
/// what they should have seen is missing, and nobody could tell them.
#[must_use]
pub fn take_left_out() -> u64 {
    LEFT_OUT.take()
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    /// Where its records arrive.
    pub inbox: Inbox,
    said: Said,
    /// Its configuration and state, removed with it.
    private: TempDir,
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
        Self::configured("", inbox, &[&["--endpoint", &address.to_string()], flags].concat())
    }

    /// An agent whose configuration file is `text`; `inbox` is where what it sends is expected.
    ///
    /// # Panics
    /// When there is no agent, or it does not start.
    #[must_use]
    pub fn configured(text: &str, inbox: Inbox, flags: &[&str]) -> Self {
        let private = tempfile::tempdir().expect("a temporary folder");
        let config = config_of(&private);
        fs::write(&config, text).expect("the folder is writable");
        let state = format!("state.directory={}", private.path().display());
        let batch = format!("batch.timeout={}", wait::slowly(Duration::from_millis(50)));
        let answer = format!("export.timeout={}", wait::slowly(Duration::from_secs(10)));
        let flush = format!("shutdown.timeout={}", wait::slowly(Duration::from_secs(5)));
        let mut child = Command::new(binary("acceptd"))
            // Neither the host's configuration nor this environment may change what a test sees.
            .env_clear()
            .args(["run", "--attributes", "full"])
            .arg("--config")
            .arg(&config)
            .args(["--set", &state])
            .args(["--set", &batch, "--set", "export.backoff_initial=50ms"])
            .args(["--set", &answer, "--set", &flush])
            .args(["--set", "export.backoff_max=200ms"])
            // Every accept is to be a record, and several agents run at a time.
            .args(["--set", "overload.max_records_per_second=100000000"])
            .args(["--set", "admin.listen=none", "--set", "metrics.export=false"])
            .args(["--set", "capture.pin_directory=none", "--set", "traces.export=false"])
            .args(["--set", &tier_setting()])
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let said = Said::by(child.stderr.take().expect("piped"));
        let mut agent = Self { child, inbox, said, private };
        agent.until_it_says("captures accepts");
        agent
    }

    /// Writes its configuration file anew, and asks it to read it.
    ///
    /// # Panics
    /// When the file cannot be written, or the agent does not run.
    pub fn reconfigure(&self, text: &str) {
        fs::write(config_of(&self.private), text).expect("the folder is writable");
        kill_process(self.pid(), Signal::HUP).expect("the agent is there");
    }

    /// Ends the agent as the kernel does, without a word.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(mut self) {
        self.child.kill().expect("the agent is there");
        self.child.wait().expect("a child");
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Anonymous memory of the agent (`RssAnon`), in KiB.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn anonymous_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Waits until the agent's messages contain `words`.
    ///
    /// # Panics
    /// When the agent ends before.
    pub fn until_it_says(&mut self, words: &str) {
        wait::until(&format!("the agent says {words:?}"), || {
            let ended = self.child.try_wait().expect("a child");
            let said = self.said.text();
            assert!(ended.is_none(), "the agent ended: {ended:?}\n{said}");
            said.contains(words).then_some(())
        });
    }

    /// Everything that the agent said so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.text()
    }

    /// The numbers that follow `words` in the agent's messages, in order.
    #[must_use]
    pub fn numbers_after(&self, words: &str) -> Vec<f64> {
        let said = self.said.text();
        let after = said.split(words).skip(1);
        after.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
    }

    /// The numbers that are before `words` in the agent's messages, in order.
    #[must_use]
    pub fn numbers_before(&self, words: &str) -> Vec<f64> {
        let said = self.said.text();
        let before: Vec<_> = said.split(words).collect();
        let before = before.iter().take(before.len().saturating_sub(1));
        before.filter_map(|rest| rest.split_whitespace().last()?.parse().ok()).collect()
    }

    /// Stops the agent and returns its ledger, which must say that everything that was recorded has arrived.
    ///
    /// # Panics
    /// When it does not, or when [`Agent::end`] does.
    #[must_use]
    pub fn stop(self) -> Json {
        let inbox = self.inbox.clone();
        let ledger = self.end();
        assert_eq!(inbox.violations(), BTreeSet::new(), "otel-config/registry");
        assert_eq!(ledger["capture"]["lost"]["ring"], 0, "{ledger}");
        assert_eq!(ledger["capture"]["malformed"], 0, "{ledger}");
        assert_eq!(ledger["export"]["acknowledged"], ledger["capture"]["records"], "{ledger}");
        assert_eq!(ledger["export"]["acknowledged"], inbox.records().len(), "what arrived is what was sent");
        if let Some(spans) = ledger["traces"]["acknowledged"].as_u64() {
            assert_eq!(usize::try_from(spans), Ok(inbox.spans().len()), "likewise of spans");
            assert_eq!(ledger["traces"]["acknowledged"], ledger["capture"]["spans"], "{ledger}");
        }
        ledger
    }

    /// Stops the agent and returns its ledger. The agent checks every equation, and exits with 1 if one fails.
    ///
    /// # Panics
    /// When the agent does not stop cleanly.
    #[must_use]
    pub fn end(mut self) -> Json {
        kill_process(self.pid(), Signal::TERM).expect("the agent is there");
        let status = self.child.wait().expect("the agent ends");
        assert!(status.success(), "{status}\n{}", self.said.text());
        let ledger = wait::until("a ledger", || self.ledger());
        self.assert_last_words_add_up();
        note_left_out(&ledger);
        ledger
    }

    /// What a person reads is all that was seen, too.
    fn assert_last_words_add_up(&self) {
        let said = self.said.text();
        let words = said.lines().find_map(|line| line.split_once(" other events seen: "));
        let (seen, became) = words.unwrap_or_else(|| panic!("no last words in {said}"));
        let sum = |words: &str| words.split(' ').filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
        assert_eq!(sum(seen), sum(became), "{seen} and {became}");
    }

    /// What it says of its ledger when it ends.
    fn ledger(&self) -> Option<Json> {
        let said = self.said.text();
        serde_json::from_str(said.lines().find_map(|line| line.strip_prefix("ledger: "))?).ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Of a test that failed; after `stop` there is nothing left to end. Its last words may say why.
        if thread::panicking() && matches!(self.child.try_wait(), Ok(None)) {
            _ = kill_process(self.pid(), Signal::TERM);
            let patience = Instant::now() + LAST_WORDS;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
                thread::sleep(Duration::from_millis(50));
            }
            // What it wrote last is read a moment later.
            thread::sleep(Duration::from_millis(50));
            self.ledger().as_ref().map(note_left_out);
            eprintln!("the agent said:\n{}", self.said.text());
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

pub(crate) fn note_left_out(ledger: &Json) {
    let missed = ledger["hook_missed"].as_u64().unwrap_or_default();
    LEFT_OUT.set(LEFT_OUT.get() + missed);
}

fn config_of(private: &TempDir) -> PathBuf {
    private.path().join("acceptd.toml")
}

/// What the agent said so far. It is read all the time, so that the agent never blocks.
#[derive(Debug, Default, Clone)]
pub(crate) struct Said(Arc<Mutex<String>>);

impl Said {
    pub(crate) fn by(stderr: ChildStderr) -> Self {
        let said = Self::default();
        let to = said.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut said = to.0.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&line);
                said.push('\n');
            }
        });
        said
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
