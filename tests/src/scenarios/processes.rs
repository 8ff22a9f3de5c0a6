//! Whose accept it is.

use std::{
    collections::HashMap,
    fs::{
        Permissions, {self},
    },
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use jiff::{SignedDuration, Timestamp};
use rustix::{
    net::{AddressFamily, SocketType, bind, socket},
    process::{Signal, kill_process},
    thread::{CapabilitySet, remove_capability_from_bounding_set},
};

use super::assert_tells;
use crate::{
    agent::{Agent, binary},
    mounted::Group,
    raw,
    record::Record,
    truth::Truth,
    wait,
};

struct Acceptor {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Acceptor {
    /// A process of `program` that accepts on `listener` as its descriptor 0.
    fn start(program: &Path, listener: &TcpListener, arguments: &[&str]) -> Self {
        Self::run(Command::new(program).args(arguments), listener)
    }

    fn run(command: &mut Command, listener: &TcpListener) -> Self {
        let inherited = OwnedFd::from(listener.try_clone().expect("a descriptor"));
        let mut child = command.stdin(inherited).stdout(Stdio::piped()).spawn().expect("the acceptor starts");
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

    fn kill(mut self) {
        self.child.kill().expect("it is there");
        self.child.wait().expect("a child");
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
fn acceptor_called(folder: &Path, name: &str) -> PathBuf {
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

/// As in a container: the agent's own name is another one.
pub(super) fn the_hosts_name_is_not_the_agents_own() {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let start = || {
        raw::leave_the_host_name();
        rustix::system::sethostname(b"agents-own").expect("root may");
        Agent::start()
    };
    // Who it starts has its names.
    let agent = thread::spawn(start).join().expect("it starts");
    let (listening, port) = listener();
    let _client = connect(port);
    let _accepted = listening.accept().expect("a connection");
    let record = agent.inbox.of_port(port, 1).remove(0);
    assert_eq!(record.resource_text("host.name"), Some(host.trim()));
    let _ = agent.stop();
}

/// An agent whose records wait long enough for what their process says of itself, on a slow machine too.
fn patient(flags: &[&str]) -> Agent {
    Agent::with(&[&["--set", "batch.timeout=2s"], flags].concat())
}

/// One accept by an acceptor: the record.
fn one_accept(agent: &Agent, command: &mut Command) -> Record {
    let (listening, port) = listener();
    let mut acceptor = Acceptor::run(command, &listening);
    let client = connect(port);
    let truth = acceptor.truth();
    let record = agent.inbox.of_port(port, 1).remove(0);
    assert_tells(&record, &truth);
    drop(client);
    acceptor.end();
    record
}

fn acceptor() -> Command {
    let mut command = Command::new(binary("acceptor"));
    command.env_clear();
    command
}

fn service(record: &Record) -> Option<&str> {
    record.resource_text("service.name")
}

const NAMELESS: Option<&str> = Some("unknown_service:acceptor");

pub(super) fn what_a_process_publishes_names_its_service() {
    let agent = patient(&[]);
    let record = one_accept(&agent, acceptor().args(["publish", "valid", "shop", "1"]));
    assert_eq!(service(&record), Some("shop"));
    assert_eq!(record.resource_text("service.version"), Some("7"));
    assert_eq!(record.resource_text("service.instance.id"), Some("till-7"));
    assert_eq!(record.resource_text("process.pid"), None, "what was observed is a number, and wins");
    let mut both = acceptor();
    both.env("OTEL_SERVICE_NAME", "environment").env("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=eu");
    let record = one_accept(&agent, both.args(["publish", "valid", "shop", "1"]));
    assert_eq!((service(&record), record.resource_text("service.namespace")), (Some("shop"), Some("eu")));
    let _ = agent.stop();
}

pub(super) fn a_wrong_context_hurts_nobody() {
    let agent = patient(&[]);
    for wrong in ["garbage", "huge", "elsewhere", "unanswered"] {
        let record = one_accept(&agent, acceptor().args(["publish", wrong, "shop", "1"]));
        assert_eq!(service(&record), NAMELESS, "{wrong}");
        assert_eq!(record.resource_text("service.instance.id"), None, "nobody makes one up");
    }
    let record = one_accept(&agent, acceptor().args(["publish", "valid", "shop", "1"]));
    assert_eq!(service(&record), Some("shop"), "the next one is read");
    let _ = agent.stop();
}

pub(super) fn the_environment_names_the_service() {
    let agent = patient(&[]);
    let mut named = acceptor();
    named.env(
        "OTEL_RESOURCE_ATTRIBUTES",
        "deployment.environment.name=prod,service.instance.id=e1,host.name=forged,secret=x",
    );
    let record = one_accept(&agent, named.env("OTEL_SERVICE_NAME", "till").arg("1"));
    assert_eq!(service(&record), Some("till"));
    assert_eq!(record.resource_text("deployment.environment.name"), Some("prod"));
    assert_eq!(record.resource_text("service.instance.id"), Some("e1"));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    assert_eq!(record.resource_text("host.name"), Some(host.trim()));
    assert_eq!(record.resource_text("secret"), None);
    let _ = agent.stop();
}

/// docker-compose.yml and packaging/kubernetes drop all others. What a process of another user publishes and runs is seen all the same.
pub(super) fn four_capabilities_are_enough() {
    let four = CapabilitySet::BPF
        | CapabilitySet::PERFMON
        | CapabilitySet::SYS_PTRACE
        | CapabilitySet::DAC_READ_SEARCH;
    // What a thread may not have, no program that it starts has.
    let start = move || {
        for capability in CapabilitySet::all().difference(four).iter() {
            // One that this kernel does not know is nobody's.
            _ = remove_capability_from_bounding_set(capability);
        }
        patient(&[])
    };
    let agent = thread::spawn(start).join().expect("the agent starts");
    let status = format!("/proc/{}/status", agent.pid().as_raw_nonzero());
    let status = fs::read_to_string(status).expect("the agent runs");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    assert_eq!(effective, Some(format!("{:016x}", four.bits()).as_str()));
    // A copy that everybody may run: the build's folder may be closed to others.
    let folder =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let program = acceptor_called(folder.path(), "of-nobody");
    let mut nobodys = Command::new(&program);
    nobodys.uid(65534).gid(65534).env("OTEL_SERVICE_NAME", "till").arg("1");
    let record = one_accept(&agent, &mut nobodys);
    assert_eq!(service(&record), Some("till"));
    assert_eq!(executable(&record), ("of-nobody", program.to_str()));
    assert_eq!(record.resource_int("process.user.id"), Some(65534));
    let _ = agent.stop();
}

pub(super) fn nobody_is_asked_when_that_is_switched_off() {
    let agent = Agent::with(&["--set", "resource.published=false"]);
    let mut named = acceptor();
    named.env("OTEL_SERVICE_NAME", "environment").args(["publish", "valid", "shop", "1"]);
    assert_eq!(service(&one_accept(&agent, &mut named)), NAMELESS);
    let _ = agent.stop();
}

pub(super) fn how_it_was_started_is_told_when_that_is_wanted() {
    let keys = ["process.command", "process.command_args", "process.args_count", "process.parent_pid"];
    let agent = patient(&[]);
    let record = one_accept(&agent, acceptor().arg("1"));
    for key in keys {
        assert_eq!(record.resource.get(key), None, "{key} is not told by itself");
    }
    let _ = agent.stop();

    let include = format!("resource.include={}", keys.join(","));
    let agent = patient(&["--set", &include, "--set", "resource.published=false"]);
    let path = binary("acceptor");
    let record = one_accept(&agent, acceptor().args(["1", "true", "", "a b"]));
    assert_eq!(record.resource_text("process.command").map(Path::new), Some(path.as_path()));
    let expected = [path.to_str().expect("text"), "1", "true", "", "a b"];
    assert_eq!(record.resource_texts("process.command_args"), expected);
    assert_eq!(record.resource_int("process.args_count"), Some(5));
    assert_eq!(record.resource_int("process.parent_pid"), Some(i64::from(std::process::id())));
    let _ = agent.stop();
}

/// When the agent looks, the process that accepted first is another program of the same executable.
pub(super) fn who_became_the_same_executable_again_is_not_asked() {
    let agent = patient(&["--set", "resource.include=process.args_count"]);
    let (listening, port) = listener();
    let path = binary("acceptor");
    let again = ["env", "OTEL_SERVICE_NAME=another", path.to_str().expect("text"), "1"];
    kill_process(agent.pid(), Signal::STOP).expect("the agent is there");
    let mut acceptor = Acceptor::run(acceptor().arg("1").args(again), &listening);
    let first = connect(port);
    let before = acceptor.truth();
    drop(first);
    let second = connect(port);
    let after = acceptor.truth();
    assert_eq!(before.pid, after.pid, "it is still that process");
    kill_process(agent.pid(), Signal::CONT).expect("the agent is there");
    let records = agent.inbox.of_port(port, 2);
    assert_eq!((service(&records[0]), records[0].resource_int("process.args_count")), (NAMELESS, None));
    assert_eq!(
        (service(&records[1]), records[1].resource_int("process.args_count")),
        (Some("another"), Some(2))
    );
    drop(second);
    acceptor.end();
    let _ = agent.stop();
}

pub(super) fn peers_are_told_as_far_as_they_may_be() {
    for (setting, address) in [("full", Some("127.9.8.7")), ("prefix", Some("127.9.8.0")), ("off", None)] {
        let agent = Agent::with(&["--set", &format!("privacy.peer_address={setting}")]);
        let (listening, port) = listener();
        let client = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&client, &SocketAddr::from(([127, 9, 8, 7], 0))).expect("a loopback address");
        rustix::net::connect(&client, &SocketAddr::from(([127, 0, 0, 1], port))).expect("somebody listens");
        let _accepted = listening.accept().expect("a connection");
        let record = agent.inbox.of_port(port, 1).remove(0);
        assert_eq!(record.text("network.peer.address"), address, "{setting}");
        assert_eq!(record.int("network.peer.port").is_some(), address.is_some(), "{setting}");
        assert_eq!(record.text("network.local.address"), Some("127.0.0.1"), "{setting}");
        let body = format!("{:?}", record.log.body);
        assert_eq!(body.contains("127.9.8.7"), setting == "full", "{setting}: {body}");
        let _ = agent.stop();
    }
}

/// The process publishes after its second accept, when the record of the first has arrived.
pub(super) fn a_name_that_comes_later_is_taken_later() {
    const MANY: &str = "100000";
    let agent = Agent::start();
    let (listening, port) = listener();
    let mut named = Acceptor::run(acceptor().args(["later", "named", MANY]), &listening);
    let mut accept = || {
        drop(connect(port));
        named.truth()
    };
    let _ = accept();
    assert_eq!(service(&agent.inbox.of_port(port, 1)[0]), NAMELESS);
    let mut accepts = 1;
    wait::until("the name", || {
        let _ = accept();
        accepts += 1;
        let records = agent.inbox.of_port(port, accepts);
        records.iter().any(|record| service(record) == Some("named")).then_some(())
    });
    named.kill();
    let _ = agent.stop();
}

/// Asked again after its second accept, it does not answer any more.
pub(super) fn who_is_gone_when_asked_again_is_still_who_it_was() {
    let agent = patient(&[]);
    let (listening, port) = listener();
    let mut command = acceptor();
    let mut named = Acceptor::run(command.env("OTEL_SERVICE_NAME", "till").arg("2"), &listening);
    let first = connect(port);
    let _ = named.truth();
    assert_eq!(service(&agent.inbox.of_port(port, 1)[0]), Some("till"));
    // It is not asked again within the first second, and that has passed by now.
    kill_process(agent.pid(), Signal::STOP).expect("the agent is there");
    let second = connect(port);
    let _ = named.truth();
    drop((first, second));
    named.end();
    kill_process(agent.pid(), Signal::CONT).expect("the agent is there");
    assert_eq!(service(&agent.inbox.of_port(port, 2)[1]), Some("till"));
    let _ = agent.stop();
}

/// An id as an engine would give one.
fn container_id(of: &str) -> String {
    let digits = of.bytes().cycle().map(|byte| format!("{byte:x}"));
    digits.take(32).collect()
}

pub(super) fn the_cgroup_tells_the_container() {
    let id = container_id("the_cgroup_tells");
    let group = Group::new(&format!("docker-{id}.scope"));
    let agent = Agent::with(&["--set", &group.flag()]);
    let inside = one_accept(&agent, &mut group.acceptor());
    assert_eq!(inside.resource_text("container.id"), Some(id.as_str()));
    let entities = inside.entities;
    assert!(entities.contains("container"), "{entities:?}");
    let outside = one_accept(&agent, acceptor().arg("1"));
    assert_eq!(outside.resource_text("container.id"), None);
    assert!(!outside.entities.contains("container"));
    let _ = agent.stop();
}

pub(super) fn the_cgroup_tells_the_systemd_service() {
    let group = Group::new("acceptd-scenario@7.service");
    let agent = patient(&["--set", &group.flag()]);
    let record = one_accept(&agent, &mut group.acceptor());
    assert_eq!(service(&record), Some("acceptd-scenario"));
    assert!(record.entities.contains("service"));
    let record = one_accept(&agent, group.acceptor().env("OTEL_SERVICE_NAME", "published"));
    assert_eq!(service(&record), Some("published"), "the process knows better");
    let nameless = one_accept(&agent, acceptor().arg("1"));
    assert!(!nameless.entities.contains("service"), "a fallback is no identity");
    let _ = agent.stop();
}

/// Of the second process in it nothing is left when the agent looks.
pub(super) fn the_cgroup_is_remembered_for_those_who_are_gone() {
    let id = container_id("is_remembered_for");
    let group = Group::new(&format!("crio-{id}.scope"));
    let agent = Agent::with(&["--set", &group.flag()]);
    let first = one_accept(&agent, &mut group.acceptor());
    assert_eq!(first.resource_text("container.id"), Some(id.as_str()));
    let (listening, port) = listener();
    kill_process(agent.pid(), Signal::STOP).expect("the agent is there");
    let mut gone = Acceptor::run(&mut group.acceptor(), &listening);
    let client = connect(port);
    let truth = gone.truth();
    drop(client);
    gone.end();
    kill_process(agent.pid(), Signal::CONT).expect("the agent is there");
    let record = agent.inbox.of_port(port, 1).remove(0);
    assert_tells(&record, &truth);
    assert_eq!(executable(&record).1, None, "it is gone");
    assert_eq!(record.resource_text("container.id"), Some(id.as_str()));
    let _ = agent.stop();
}

/// What a process is moved to after its accept is not told of those who stay.
pub(super) fn a_process_that_is_moved_takes_nobody_with_it() {
    let (stays, goes) = (container_id("who stays"), container_id("who goes"));
    let group = Group::new(&format!("docker-{stays}.scope"));
    let other = Group::new(&format!("docker-{goes}.scope"));
    let agent = Agent::with(&["--set", &group.flag()]);
    let (listening, port) = listener();
    kill_process(agent.pid(), Signal::STOP).expect("the agent is there");
    let mut moved = Acceptor::run(&mut group.acceptor(), &listening);
    let client = connect(port);
    let truth = moved.truth();
    other.take(truth.pid);
    kill_process(agent.pid(), Signal::CONT).expect("the agent is there");
    let record = agent.inbox.of_port(port, 1).remove(0);
    assert_eq!(record.resource_text("container.id"), None, "where it was is not known, nor is it made up");
    drop(client);
    moved.end();
    let record = one_accept(&agent, &mut group.acceptor());
    assert_eq!(record.resource_text("container.id"), Some(stays.as_str()));
    let _ = agent.stop();
}

/// Each of them is gone when its record is made, or soon after. Names alternate, so that one who is taken for another shows. An
/// emulated machine makes a tenth of them.
pub(super) fn ten_thousand_processes_accept_once_each() {
    // How far the agent's start of the host's clock may be from ours, and a tick.
    const TOLERANCE: SignedDuration = SignedDuration::from_millis(50);
    let processes = wait::fewer(10_000) as usize;
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let programs = ["even", "odd"].map(|name| acceptor_called(folder.path(), name));
    let (listening, port) = listener();
    let mut truths = HashMap::new();
    for number in 0..processes {
        let before = Timestamp::now();
        let name = ["even", "odd"][number % 2];
        let mut acceptor = Acceptor::start(&programs[number % 2], &listening, &["1"]);
        let client = connect(port);
        let truth = acceptor.truth();
        drop(client);
        acceptor.end();
        let started = before - TOLERANCE..=Timestamp::now() + TOLERANCE;
        truths.insert(truth.cookie.to_string(), (truth.pid, name, started));
    }
    let records = agent.inbox.of_port(port, processes);
    assert_eq!((records.len(), truths.len()), (processes, processes));
    for record in &records {
        let cookie = record.text("acceptd.socket.cookie").expect("a cookie");
        let (pid, name, started) = truths.remove(cookie).expect("an accept of ours, once");
        assert_eq!(record.resource_int("process.pid"), Some(i64::from(pid)), "{record:?}");
        assert_eq!(executable(record).0, name, "{record:?}");
        assert_eq!(record.resource_int("process.user.id"), Some(0), "{record:?}");
        let created = record.resource_text("process.creation.time").expect("every process has one");
        assert!(started.contains(&created.parse().expect("a time")), "{created}, not in {started:?}");
    }
    let _ = agent.stop();
}
