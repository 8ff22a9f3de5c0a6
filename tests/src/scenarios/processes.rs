//! Whose accept it is.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::{
    agent::{Agent, binary},
    record::Record,
    truth::Truth,
    wait,
};
use rustix::process::{Signal, kill_process};

use super::assert_tells;

struct Acceptor {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Acceptor {
    /// A process of `program` that accepts on `listener` as its descriptor 0.
    fn start(program: &Path, listener: &TcpListener, arguments: &[&str]) -> Self {
        let inherited = OwnedFd::from(listener.try_clone().expect("a descriptor"));
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(inherited)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the acceptor starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    fn truth(&mut self) -> Truth {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the acceptor speaks");
        Truth::parse(line.trim())
    }

    fn end(mut self) {
        assert!(self.child.wait().expect("a child").success());
    }
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).expect("somebody listens")
}

/// A copy of the acceptor under another name.
fn acceptor_called(folder: &Path, name: &str) -> std::path::PathBuf {
    let copy = folder.join(name);
    fs::copy(binary("acceptor"), &copy).expect("the folder is writable");
    copy
}

fn executable(record: &Record) -> (&str, Option<&str>) {
    let name = record.resource_text("process.executable.name").expect("every process has a name");
    (name, record.resource_text("process.executable.path"))
}

pub(super) fn two_processes_have_two_resources_in_one_request() {
    // So long a timeout that both records are in one request for certain.
    let agent = Agent::with(&["--set", "batch.timeout=2s"]);
    let program = binary("acceptor");
    let mut pids = Vec::new();
    let mut requests = Vec::new();
    let (first, first_port) = listener();
    let (second, second_port) = listener();
    let mut acceptors =
        [Acceptor::start(&program, &first, &["1"]), Acceptor::start(&program, &second, &["1"])];
    let clients = [connect(first_port), connect(second_port)];
    for (acceptor, port) in acceptors.iter_mut().zip([first_port, second_port]) {
        let truth = acceptor.truth();
        let records = agent.inbox.of_port(port, 1);
        assert_tells(&records[0], &truth);
        assert_eq!(executable(&records[0]), ("acceptor", program.to_str()));
        pids.push(truth.pid);
        requests.push(records[0].request);
    }
    assert_ne!(pids[0], pids[1]);
    assert_eq!(requests[0], requests[1], "one request");
    drop(clients);
    acceptors.into_iter().for_each(Acceptor::end);
    let _ = agent.stop();
}

pub(super) fn exec_on_an_inherited_listener_is_another_resource() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let after = acceptor_called(folder.path(), "after-exec");
    let (listening, port) = listener();
    let after_path = after.to_str().expect("a plain path");
    let mut acceptor = Acceptor::start(&binary("acceptor"), &listening, &["1", after_path, "1"]);
    let first = connect(port);
    let before_exec = acceptor.truth();
    drop(first);
    let second = connect(port);
    let after_exec = acceptor.truth();
    drop(second);
    acceptor.end();
    assert_eq!(before_exec.pid, after_exec.pid, "exec keeps the pid");
    let records = agent.inbox.of_port(port, 2);
    assert_tells(&records[0], &before_exec);
    assert_tells(&records[1], &after_exec);
    assert_eq!(executable(&records[0]).0, "acceptor");
    assert_eq!(executable(&records[1]).0, "after-exec");
    let created = |record: &Record| record.resource_text("process.creation.time").expect("known").to_owned();
    assert_eq!(created(&records[0]), created(&records[1]), "exec keeps the start time");
    let _ = agent.stop();
}

pub(super) fn a_reused_pid_is_another_process() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (listening, port) = listener();
    let accept_one = |program: &Path| {
        let mut acceptor = Acceptor::start(program, &listening, &["1"]);
        let client = connect(port);
        let truth = acceptor.truth();
        drop(client);
        acceptor.end();
        truth
    };
    let first = accept_one(&acceptor_called(folder.path(), "first"));
    // Other tests start processes too: try until the kernel gives the number again.
    let program = acceptor_called(folder.path(), "second");
    let mut accepted = 1;
    let second = wait::until("the same pid again", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (first.pid - 1).to_string())
            .expect("root may choose the next pid");
        accepted += 1;
        let truth = accept_one(&program);
        (truth.pid == first.pid).then_some(truth)
    });
    let records = agent.inbox.of_port(port, accepted);
    let (old, new) = (&records[0], &records[accepted - 1]);
    assert_tells(old, &first);
    assert_tells(new, &second);
    assert_eq!(executable(old).0, "first");
    assert_eq!(executable(new).0, "second");
    let created = |record: &Record| record.resource_text("process.creation.time").expect("known").to_owned();
    assert_ne!(created(old), created(new));
    let _ = agent.stop();
}

pub(super) fn a_process_that_is_gone_before_anybody_looks() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = acceptor_called(folder.path(), "short-lived");
    let (listening, port) = listener();
    kill_process(agent.pid(), Signal::STOP).expect("the agent is there");
    let mut acceptor = Acceptor::start(&program, &listening, &["1"]);
    let client = connect(port);
    let truth = acceptor.truth();
    drop(client);
    acceptor.end();
    kill_process(agent.pid(), Signal::CONT).expect("the agent is there");
    let records = agent.inbox.of_port(port, 1);
    assert_tells(&records[0], &truth);
    assert_eq!(executable(&records[0]), ("short-lived", None), "the name is the kernel's, the path is gone");
    assert!(records[0].resource_text("process.creation.time").is_some());
    assert_eq!(records[0].resource_int("process.user.id"), Some(0));
    let _ = agent.stop();
}

pub(super) fn what_the_resource_says_of_the_host() {
    let agent = Agent::start();
    let (listening, port) = listener();
    let _client = connect(port);
    let _accepted = listening.accept().expect("a connection");
    let records = agent.inbox.of_port(port, 1);
    let record = &records[0];
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    assert_eq!(
        record.resource_text("host.id").map(str::to_owned),
        read("/etc/machine-id").filter(|id| !id.is_empty())
    );
    assert_eq!(record.resource_text("host.name").map(str::to_owned), read("/proc/sys/kernel/hostname"));
    assert_eq!(record.resource_text("os.type"), Some("linux"));
    assert_eq!(record.resource_text("telemetry.distro.name"), Some("acceptd"));
    assert_eq!(record.resource_text("process.owner"), Some("root"));
    let name = executable(record).0;
    assert_eq!(record.resource_text("service.name"), Some(format!("unknown_service:{name}").as_str()));
    let _ = agent.stop();
}
