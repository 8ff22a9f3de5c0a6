//! The Resource of an accept: process, executable, service, container, host.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
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

use super::support::assert_matches_truth;
use crate::{
    agent::{Agent, binary},
    ground_truth::GroundTruth,
    mounted::Cgroup,
    raw,
    record::Record,
    wait,
};

/// A child process that runs the binary `acceptor`, or a program that behaves like it.
struct Acceptor {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Acceptor {
    /// Starts `program` with `listener` as its standard input.
    fn start(program: &Path, listener: &TcpListener, arguments: &[&str]) -> Self {
        Self::run(Command::new(program).args(arguments), listener)
    }

    /// Starts `command` with `listener` as its standard input.
    fn run(command: &mut Command, listener: &TcpListener) -> Self {
        let inherited = OwnedFd::from(listener.try_clone().expect("a descriptor"));
        let mut child = command.stdin(inherited).stdout(Stdio::piped()).spawn().expect("the acceptor starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// The next accept, as the process printed it.
    fn truth(&mut self) -> GroundTruth {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line from the acceptor");
        GroundTruth::parse(line.trim())
    }

    /// Waits until the process exits with success.
    fn finish(mut self) {
        assert!(self.child.wait().expect("waitpid").success());
    }

    fn kill(mut self) {
        self.child.kill().expect("the process is running");
        self.child.wait().expect("waitpid");
    }
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).expect("the listener is up")
}

/// A copy of the acceptor binary under another name.
fn acceptor_called(folder: &Path, name: &str) -> PathBuf {
    let copy = folder.join(name);
    fs::copy(binary("acceptor"), &copy).expect("the folder is writable");
    copy
}

/// Executable name and path of the record's Resource.
fn executable(record: &Record) -> (&str, Option<&str>) {
    let name = record.resource_text("process.executable.name").expect("every process has a name");
    (name, record.resource_text("process.executable.path"))
}

/// Accepts of two processes in one request are under two Resources, each with its own process.
pub(super) fn two_processes_have_two_resources_in_one_request() {
    // The timeout is long enough for both records to be in one batch.
    let agent = Agent::with_flags(&["--set", "batch.timeout=2s"]);
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
        let records = agent.inbox.wait_for_accepts(port, 1);
        assert_matches_truth(&records[0], &truth);
        assert_eq!(executable(&records[0]), ("acceptor", program.to_str()));
        pids.push(truth.pid);
        requests.push(records[0].request);
    }
    assert_ne!(pids[0], pids[1]);
    assert_eq!(requests[0], requests[1], "one request");
    drop(clients);
    acceptors.into_iter().for_each(Acceptor::finish);
    let _ = agent.stop();
}

/// After exec(2) the same pid and creation time belong to another executable: each accept has the one that
/// made it.
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
    acceptor.finish();
    assert_eq!(before_exec.pid, after_exec.pid, "exec keeps the pid");
    let records = agent.inbox.wait_for_accepts(port, 2);
    assert_matches_truth(&records[0], &before_exec);
    assert_matches_truth(&records[1], &after_exec);
    assert_eq!(executable(&records[0]).0, "acceptor");
    assert_eq!(executable(&records[1]).0, "after-exec");
    let created = |record: &Record| record.resource_text("process.creation.time").expect("known").to_owned();
    assert_eq!(created(&records[0]), created(&records[1]), "exec keeps the start time");
    let _ = agent.stop();
}

/// Two processes with the same pid, one after the other, are distinguished by executable and creation time.
pub(super) fn a_reused_pid_is_another_process() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (listening, port) = listener();
    let accept_one = |program: &Path| {
        let mut acceptor = Acceptor::start(program, &listening, &["1"]);
        let client = connect(port);
        let truth = acceptor.truth();
        drop(client);
        acceptor.finish();
        truth
    };
    let first = accept_one(&acceptor_called(folder.path(), "first"));
    // Other scenarios start processes, too: repeat until the kernel assigns the pid again.
    let program = acceptor_called(folder.path(), "second");
    let mut accepted = 1;
    let second = wait::until("the same pid again", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (first.pid - 1).to_string())
            .expect("ns_last_pid is writable");
        accepted += 1;
        let truth = accept_one(&program);
        (truth.pid == first.pid).then_some(truth)
    });
    let records = agent.inbox.wait_for_accepts(port, accepted);
    let (old, new) = (&records[0], &records[accepted - 1]);
    assert_matches_truth(old, &first);
    assert_matches_truth(new, &second);
    assert_eq!(executable(old).0, "first");
    assert_eq!(executable(new).0, "second");
    let created = |record: &Record| record.resource_text("process.creation.time").expect("known").to_owned();
    assert_ne!(created(old), created(new));
    let _ = agent.stop();
}

/// A process that exits while the agent is stopped (SIGSTOP) keeps what the BPF programs recorded: name,
/// creation time and user. The path, which only /proc has, is absent.
pub(super) fn a_process_that_exits_before_it_is_identified() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = acceptor_called(folder.path(), "short-lived");
    let (listening, port) = listener();
    kill_process(agent.pid(), Signal::STOP).expect("the agent is running");
    let mut acceptor = Acceptor::start(&program, &listening, &["1"]);
    let client = connect(port);
    let truth = acceptor.truth();
    drop(client);
    acceptor.finish();
    kill_process(agent.pid(), Signal::CONT).expect("the agent is running");
    let records = agent.inbox.wait_for_accepts(port, 1);
    assert_matches_truth(&records[0], &truth);
    assert_eq!(executable(&records[0]), ("short-lived", None), "the name from the kernel, and no path");
    assert!(records[0].resource_text("process.creation.time").is_some());
    assert_eq!(records[0].resource_int("process.user.id"), Some(0));
    let _ = agent.stop();
}

/// Host attributes match /etc/machine-id and the kernel's host name.
pub(super) fn host_attributes() {
    let agent = Agent::start();
    let (listening, port) = listener();
    let _client = connect(port);
    let _accepted = listening.accept().expect("a connection");
    let records = agent.inbox.wait_for_accepts(port, 1);
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

/// An agent in a UTS namespace of its own, as in a container, still records the host's name.
pub(super) fn host_name_is_not_the_agents_uts_name() {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let start = || {
        raw::unshare_uts_namespace();
        rustix::system::sethostname(b"agents-own").expect("root privileges");
        Agent::start()
    };
    // A child process inherits the thread's namespaces.
    let agent = thread::spawn(start).join().expect("it starts");
    let (listening, port) = listener();
    let _client = connect(port);
    let _accepted = listening.accept().expect("a connection");
    let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
    assert_eq!(record.resource_text("host.name"), Some(host.trim()));
    let _ = agent.stop();
}

/// Starts an agent with a batch timeout that is long enough, also on a slow machine, for a process's
/// published identity to be read before its first record is sealed.
fn with_long_batches(flags: &[&str]) -> Agent {
    Agent::with_flags(&[&["--set", "batch.timeout=2s"], flags].concat())
}

/// Runs `command` as an acceptor for one connection, and returns the record of its accept.
fn one_accept(agent: &Agent, command: &mut Command) -> Record {
    let (listening, port) = listener();
    let mut acceptor = Acceptor::run(command, &listening);
    let client = connect(port);
    let truth = acceptor.truth();
    let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
    assert_matches_truth(&record, &truth);
    drop(client);
    acceptor.finish();
    record
}

/// The acceptor, with an empty environment.
fn acceptor() -> Command {
    let mut command = Command::new(binary("acceptor"));
    command.env_clear();
    command
}

/// `service.name` of the record's Resource.
fn service(record: &Record) -> Option<&str> {
    record.resource_text("service.name")
}

/// `service.name` of an acceptor that publishes no identity.
const NAMELESS: Option<&str> = Some("unknown_service:acceptor");

/// Service attributes from a published process context are taken, win over the environment, and cannot
/// override what the kernel says (process.pid).
pub(super) fn a_process_context_names_the_service() {
    let agent = with_long_batches(&[]);
    let record = one_accept(&agent, acceptor().args(["publish", "valid", "shop", "1"]));
    assert_eq!(service(&record), Some("shop"));
    assert_eq!(record.resource_text("service.version"), Some("7"));
    assert_eq!(record.resource_text("service.instance.id"), Some("till-7"));
    assert_eq!(record.resource_text("process.pid"), None, "the observed pid, a number, is kept");
    let mut both = acceptor();
    both.env("OTEL_SERVICE_NAME", "environment").env("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=eu");
    let record = one_accept(&agent, both.args(["publish", "valid", "shop", "1"]));
    assert_eq!((service(&record), record.resource_text("service.namespace")), (Some("shop"), Some("eu")));
    let _ = agent.stop();
}

/// Malformed contexts, and one whose memory blocks the reader, are ignored, and the next process is still
/// read.
pub(super) fn a_malformed_process_context_is_ignored() {
    let agent = with_long_batches(&[]);
    for kind in ["garbage", "huge", "elsewhere", "unanswered"] {
        let record = one_accept(&agent, acceptor().args(["publish", kind, "shop", "1"]));
        assert_eq!(service(&record), NAMELESS, "{kind}");
        assert_eq!(record.resource_text("service.instance.id"), None, "no instance id is made up");
    }
    let record = one_accept(&agent, acceptor().args(["publish", "valid", "shop", "1"]));
    assert_eq!(service(&record), Some("shop"), "the next process is read");
    let _ = agent.stop();
}

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` of the process are taken for service and deployment
/// attributes, but not for host attributes or unknown keys.
pub(super) fn the_environment_names_the_service() {
    let agent = with_long_batches(&[]);
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

/// The four capabilities that docker-compose.yml and packaging/kubernetes keep are enough to identify a
/// process of another user, including its executable and its published service.
pub(super) fn four_capabilities_are_enough() {
    let four = CapabilitySet::BPF
        | CapabilitySet::PERFMON
        | CapabilitySet::SYS_PTRACE
        | CapabilitySet::DAC_READ_SEARCH;
    // A child process inherits the thread's bounding set.
    let start = move || {
        for capability in CapabilitySet::all().difference(four).iter() {
            // Fails for a capability that this kernel does not know.
            _ = remove_capability_from_bounding_set(capability);
        }
        with_long_batches(&[])
    };
    let agent = thread::spawn(start).join().expect("the agent starts");
    let status = format!("/proc/{}/status", agent.pid().as_raw_nonzero());
    let status = fs::read_to_string(status).expect("the agent runs");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    assert_eq!(effective, Some(format!("{:016x}", four.bits()).as_str()));
    // Run a copy: other users may lack access to the build directory.
    let folder =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let program = acceptor_called(folder.path(), "as-nobody");
    let mut as_nobody = Command::new(&program);
    as_nobody.uid(65534).gid(65534).env("OTEL_SERVICE_NAME", "till").arg("1");
    let record = one_accept(&agent, &mut as_nobody);
    assert_eq!(service(&record), Some("till"));
    assert_eq!(executable(&record), ("as-nobody", program.to_str()));
    assert_eq!(record.resource_int("process.user.id"), Some(65534));
    let _ = agent.stop();
}

/// With `resource.published=false` neither environment nor process context is read.
pub(super) fn published_identity_can_be_disabled() {
    let agent = Agent::with_flags(&["--set", "resource.published=false"]);
    let mut named = acceptor();
    named.env("OTEL_SERVICE_NAME", "environment").args(["publish", "valid", "shop", "1"]);
    assert_eq!(service(&one_accept(&agent, &mut named)), NAMELESS);
    let _ = agent.stop();
}

/// Command-line attributes are absent by default, and exact once `resource.include` names them.
pub(super) fn command_line_attributes_are_opt_in() {
    let keys = ["process.command", "process.command_args", "process.args_count", "process.parent_pid"];
    let agent = with_long_batches(&[]);
    let record = one_accept(&agent, acceptor().arg("1"));
    for key in keys {
        assert_eq!(record.resource.get(key), None, "{key} is absent by default");
    }
    let _ = agent.stop();

    let include = format!("resource.include={}", keys.join(","));
    let agent = with_long_batches(&["--set", &include, "--set", "resource.published=false"]);
    let path = binary("acceptor");
    let record = one_accept(&agent, acceptor().args(["1", "true", "", "a b"]));
    assert_eq!(record.resource_text("process.command").map(Path::new), Some(path.as_path()));
    let expected = [path.to_str().expect("text"), "1", "true", "", "a b"];
    assert_eq!(record.resource_texts("process.command_args"), expected);
    assert_eq!(record.resource_int("process.args_count"), Some(5));
    assert_eq!(record.resource_int("process.parent_pid"), Some(i64::from(std::process::id())));
    let _ = agent.stop();
}

/// Between an accept and the agent's read of /proc, the process executes the same executable again with
/// another environment: the first record must not get the identity of the second program.
pub(super) fn a_re_exec_is_not_read_for_an_earlier_accept() {
    let agent = with_long_batches(&["--set", "resource.include=process.args_count"]);
    let (listening, port) = listener();
    let path = binary("acceptor");
    let again = ["env", "OTEL_SERVICE_NAME=another", path.to_str().expect("text"), "1"];
    kill_process(agent.pid(), Signal::STOP).expect("the agent is running");
    let mut acceptor = Acceptor::run(acceptor().arg("1").args(again), &listening);
    let first = connect(port);
    let before = acceptor.truth();
    drop(first);
    let second = connect(port);
    let after = acceptor.truth();
    assert_eq!(before.pid, after.pid, "exec keeps the pid");
    kill_process(agent.pid(), Signal::CONT).expect("the agent is running");
    let records = agent.inbox.wait_for_accepts(port, 2);
    assert_eq!((service(&records[0]), records[0].resource_int("process.args_count")), (NAMELESS, None));
    assert_eq!(
        (service(&records[1]), records[1].resource_int("process.args_count")),
        (Some("another"), Some(2))
    );
    drop(second);
    acceptor.finish();
    let _ = agent.stop();
}

/// `privacy.peer_address` limits the peer's address in attributes and body, and leaves the local address
/// alone.
pub(super) fn peer_address_privacy() {
    for (setting, address) in [("full", Some("127.9.8.7")), ("prefix", Some("127.9.8.0")), ("off", None)] {
        let agent = Agent::with_flags(&["--set", &format!("privacy.peer_address={setting}")]);
        let (listening, port) = listener();
        let client = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&client, &SocketAddr::from(([127, 9, 8, 7], 0))).expect("a loopback address");
        rustix::net::connect(&client, &SocketAddr::from(([127, 0, 0, 1], port))).expect("the listener is up");
        let _accepted = listening.accept().expect("a connection");
        let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
        assert_eq!(record.text("network.peer.address"), address, "{setting}");
        assert_eq!(record.int("network.peer.port").is_some(), address.is_some(), "{setting}");
        assert_eq!(record.text("network.local.address"), Some("127.0.0.1"), "{setting}");
        let body = format!("{:?}", record.log.body);
        assert_eq!(body.contains("127.9.8.7"), setting == "full", "{setting}: {body}");
        let _ = agent.stop();
    }
}

/// A process that publishes its service name only after its second accept has it in later records.
pub(super) fn a_service_name_published_later_is_picked_up() {
    const MANY: &str = "100000";
    let agent = Agent::start();
    let (listening, port) = listener();
    let mut named = Acceptor::run(acceptor().args(["later", "named", MANY]), &listening);
    let mut accept = || {
        drop(connect(port));
        named.truth()
    };
    let _ = accept();
    assert_eq!(service(&agent.inbox.wait_for_accepts(port, 1)[0]), NAMELESS);
    let mut accepts = 1;
    wait::until("the name", || {
        let _ = accept();
        accepts += 1;
        let records = agent.inbox.wait_for_accepts(port, accepts);
        records.iter().any(|record| service(record) == Some("named")).then_some(())
    });
    named.kill();
    let _ = agent.stop();
}

/// A process that has exited when the agent refreshes its identity keeps the identity that was read before.
pub(super) fn identity_survives_a_refresh_after_exit() {
    let agent = with_long_batches(&[]);
    let (listening, port) = listener();
    let mut command = acceptor();
    let mut named = Acceptor::run(command.env("OTEL_SERVICE_NAME", "till").arg("2"), &listening);
    let first = connect(port);
    let _ = named.truth();
    assert_eq!(service(&agent.inbox.wait_for_accepts(port, 1)[0]), Some("till"));
    // The agent refreshes an identity at most once a second; that second has passed by now.
    kill_process(agent.pid(), Signal::STOP).expect("the agent is running");
    let second = connect(port);
    let _ = named.truth();
    drop((first, second));
    named.finish();
    kill_process(agent.pid(), Signal::CONT).expect("the agent is running");
    assert_eq!(service(&agent.inbox.wait_for_accepts(port, 2)[1]), Some("till"));
    let _ = agent.stop();
}

/// A daemon writes a title over its environment before it forks (nginx, redis): the child, whose environment
/// never had the name while the agent looked, keeps the service of the process that it was forked from.
pub(super) fn a_title_over_the_environment_keeps_the_service() {
    let agent = with_long_batches(&[]);
    let (listening, port) = listener();
    let mut command = acceptor();
    let mut daemon =
        Acceptor::run(command.env("OTEL_SERVICE_NAME", "till").args(["daemon", "1"]), &listening);
    let first = connect(port);
    let before = daemon.truth();
    assert_eq!(service(&agent.inbox.wait_for_accepts(port, 1)[0]), Some("till"));
    // Now it shows its title, and forks.
    drop(first);
    let second = connect(port);
    let after = daemon.truth();
    assert_ne!(before.pid, after.pid, "the daemon forked");
    let environment = fs::read(format!("/proc/{}/environ", after.pid)).expect("the daemon runs");
    assert!(!environment.starts_with(b"OTEL"), "it is overwritten");
    let records = agent.inbox.wait_for_accepts(port, 2);
    assert_eq!([&records[0], &records[1]].map(service), [Some("till"); 2]);
    assert_eq!(records[1].resource_int("process.pid"), Some(i64::from(after.pid)));
    drop(second);
    daemon.finish();
    // Another start of the same program is another service.
    let other = one_accept(&agent, acceptor().env("OTEL_SERVICE_NAME", "shop").arg("1"));
    assert_eq!(service(&other), Some("shop"));
    let nameless = one_accept(&agent, acceptor().arg("1"));
    assert_eq!(service(&nameless), NAMELESS);
    let _ = agent.stop();
}

/// Daemons write a title over their environment right after they begin to listen, fork and end (nginx), all
/// before the agent sees it: the name that the environment had at listen is that of the children.
pub(super) fn a_title_right_after_listen_keeps_the_service() {
    let agent = with_long_batches(&[]);
    kill_process(agent.pid(), Signal::STOP).expect("the agent is running");
    let mut daemons: Vec<_> =
        (0..20).map(|number| ListeningDaemon::start(&format!("till-{number}"))).collect();
    kill_process(agent.pid(), Signal::CONT).expect("the agent is running");
    daemons.iter_mut().for_each(ListeningDaemon::accept_one);
    for (number, daemon) in daemons.iter().enumerate() {
        assert_eq!(daemon.service(&agent), Some(format!("till-{number}")));
    }
    for daemon in daemons {
        daemon.acceptor.finish();
    }
    let _ = agent.stop();

    let agent = with_long_batches(&["--set", "resource.published=false"]);
    let mut daemon = ListeningDaemon::start("till");
    daemon.accept_one();
    assert_eq!(daemon.service(&agent).as_deref(), NAMELESS);
    daemon.acceptor.finish();
    let _ = agent.stop();
}

/// An acceptor that began to listen, showed a title and forked; the parent has ended.
struct ListeningDaemon {
    acceptor: Acceptor,
    port: u16,
}

impl ListeningDaemon {
    fn start(service: &str) -> Self {
        let bound = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let bound = TcpListener::from(bound);
        let port = bound.local_addr().expect("an address").port();
        let mut command = acceptor();
        // Variables before it, of every length around that of the programs' buffer.
        for length in 100..150 {
            command.env(format!("A{length}"), "x".repeat(length - "A100=".len()));
        }
        command.env("OTEL_SERVICE_NAME", service).args(["listen", "1"]);
        let mut acceptor = Acceptor::run(&mut command, &bound);
        assert!(acceptor.child.wait().expect("waitpid").success());
        Self { acceptor, port }
    }

    /// Connects until the child has accepted, which then ends.
    fn accept_one(&mut self) {
        let _client = connect(self.port);
        _ = self.acceptor.truth();
    }

    /// `service.name` of the accept.
    fn service(&self, agent: &Agent) -> Option<String> {
        let record = agent.inbox.wait_for_accepts(self.port, 1).remove(0);
        service(&record).map(str::to_owned)
    }
}

/// A worker has written a title over its environment before the agent starts; its parent has not.
pub(super) fn the_parent_of_the_same_program_names_the_service() {
    let (listening, port) = listener();
    let mut command = acceptor();
    let mut workers =
        Acceptor::run(command.env("OTEL_SERVICE_NAME", "till").args(["worker", "2"]), &listening);
    // The first accept says that the worker shows its title.
    drop(connect(port));
    let first = workers.truth();
    let agent = with_long_batches(&[]);
    let client = connect(port);
    let second = workers.truth();
    assert_eq!(first.pid, second.pid);
    let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
    assert_eq!(service(&record), Some("till"));
    drop(client);
    workers.finish();
    let _ = agent.stop();
}

/// The comm of a process that differs from its executable's name: a link (redis-server, which is
/// redis-check-rdb), a script's interpreter, and a process that names itself.
pub(super) fn a_title_of_its_own_where_the_executable_says_less() {
    let agent = with_long_batches(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let link = folder.path().join("till-server");
    std::os::unix::fs::symlink(binary("acceptor"), &link).expect("a new link");
    let linked = one_accept(&agent, Command::new(&link).env_clear().arg("1"));
    assert_eq!(executable(&linked).0, "acceptor");
    assert_eq!(linked.resource_text("process.title"), Some("till-server"));
    assert_eq!(service(&linked), NAMELESS, "the service's name stays that of the executable");
    let plain = one_accept(&agent, acceptor().arg("1"));
    assert_eq!(plain.resource_text("process.title"), None);
    // The kernel cuts a comm at 15 bytes; a longer name of the executable says as much.
    let long = acceptor_called(folder.path(), "a-very-long-acceptor");
    let long = one_accept(&agent, Command::new(&long).env_clear().arg("1"));
    assert_eq!((executable(&long).0, long.resource_text("process.title")), ("a-very-long-acceptor", None));
    let _ = agent.stop();
}

/// A process for each connection, each gone before the agent reads it: path and owner are those of an
/// earlier process of the same executable in the same cgroup.
pub(super) fn short_lived_acceptors_have_path_and_owner() {
    let agent = Agent::start();
    let _ = one_accept(&agent, acceptor().arg("1"));
    let (listening, port) = listener();
    kill_process(agent.pid(), Signal::STOP).expect("the agent is running");
    let truths: Vec<GroundTruth> = (0..20)
        .map(|_| {
            let mut short = Acceptor::run(acceptor().arg("1"), &listening);
            let client = connect(port);
            let truth = short.truth();
            drop(client);
            short.finish();
            truth
        })
        .collect();
    kill_process(agent.pid(), Signal::CONT).expect("the agent is running");
    let path = binary("acceptor");
    for (record, truth) in agent.inbox.wait_for_accepts(port, truths.len()).iter().zip(&truths) {
        assert_matches_truth(record, truth);
        assert_eq!(executable(record), ("acceptor", path.to_str()), "{truth:?}");
        assert_eq!(record.resource_text("process.owner"), Some("root"), "{truth:?}");
    }
    let _ = agent.stop();
}

/// A container id of 64 hexadecimal digits, derived from `seed`.
fn container_id(seed: &str) -> String {
    let digits = seed.bytes().cycle().map(|byte| format!("{byte:x}"));
    digits.take(32).collect()
}

/// The container id comes from the name of the cgroup, together with the entity `container`.
pub(super) fn container_id_from_the_cgroup() {
    let id = container_id("the_cgroup_tells");
    let group = Cgroup::new(&format!("docker-{id}.scope"));
    let agent = Agent::with_flags(&["--set", &group.host_root_setting()]);
    let inside = one_accept(&agent, &mut group.acceptor());
    assert_eq!(inside.resource_text("container.id"), Some(id.as_str()));
    let entities = inside.entities;
    assert!(entities.contains("container"), "{entities:?}");
    let outside = one_accept(&agent, acceptor().arg("1"));
    assert_eq!(outside.resource_text("container.id"), None);
    assert!(!outside.entities.contains("container"));
    let _ = agent.stop();
}

/// A systemd unit's cgroup names the service, unless the process publishes a name; a fallback name makes no
/// entity.
pub(super) fn service_name_from_the_systemd_unit() {
    let group = Cgroup::new("acceptd-scenario@7.service");
    let agent = with_long_batches(&["--set", &group.host_root_setting()]);
    let record = one_accept(&agent, &mut group.acceptor());
    assert_eq!(service(&record), Some("acceptd-scenario"));
    assert!(record.entities.contains("service"));
    let record = one_accept(&agent, group.acceptor().env("OTEL_SERVICE_NAME", "published"));
    assert_eq!(service(&record), Some("published"), "the published name wins");
    let nameless = one_accept(&agent, acceptor().arg("1"));
    assert!(!nameless.entities.contains("service"), "a fallback name makes no entity");
    let _ = agent.stop();
}

/// A process that has exited before the agent reads /proc gets its container id from the cgroup, which the
/// agent knows from an earlier process.
pub(super) fn container_id_of_an_exited_process() {
    let id = container_id("is_remembered_for");
    let group = Cgroup::new(&format!("crio-{id}.scope"));
    let agent = Agent::with_flags(&["--set", &group.host_root_setting()]);
    let first = one_accept(&agent, &mut group.acceptor());
    assert_eq!(first.resource_text("container.id"), Some(id.as_str()));
    let (listening, port) = listener();
    kill_process(agent.pid(), Signal::STOP).expect("the agent is running");
    let mut exited = Acceptor::run(&mut group.acceptor(), &listening);
    let client = connect(port);
    let truth = exited.truth();
    drop(client);
    exited.finish();
    kill_process(agent.pid(), Signal::CONT).expect("the agent is running");
    let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
    assert_matches_truth(&record, &truth);
    let path = binary("acceptor");
    assert_eq!(executable(&record).1, path.to_str(), "the path is that of the first process");
    assert_eq!(record.resource_text("container.id"), Some(id.as_str()));
    let _ = agent.stop();
}

/// A process is moved to another container's cgroup after its accept, before the agent reads /proc: its
/// record gets no container id rather than a wrong one, and other processes of the first cgroup keep theirs.
pub(super) fn moving_a_process_does_not_relabel_its_cgroup() {
    let (stays, goes) = (container_id("stays"), container_id("moves"));
    let group = Cgroup::new(&format!("docker-{stays}.scope"));
    let other = Cgroup::new(&format!("docker-{goes}.scope"));
    let agent = Agent::with_flags(&["--set", &group.host_root_setting()]);
    let (listening, port) = listener();
    kill_process(agent.pid(), Signal::STOP).expect("the agent is running");
    let mut moved = Acceptor::run(&mut group.acceptor(), &listening);
    let client = connect(port);
    let truth = moved.truth();
    other.move_process(truth.pid);
    kill_process(agent.pid(), Signal::CONT).expect("the agent is running");
    let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
    assert_eq!(
        record.resource_text("container.id"),
        None,
        "the cgroup at the accept is unknown, so no id is recorded"
    );
    drop(client);
    moved.finish();
    let record = one_accept(&agent, &mut group.acceptor());
    assert_eq!(record.resource_text("container.id"), Some(stays.as_str()));
    let _ = agent.stop();
}

/// Ten thousand short-lived processes (a tenth of that on an emulated machine) accept once each: every record
/// has the right pid, executable, user and creation time. Executable names alternate, so that a mix-up shows.
pub(super) fn ten_thousand_processes_accept_once_each() {
    // The difference between the agent's and the test's estimate of the boot time, and a clock tick.
    const TOLERANCE: SignedDuration = SignedDuration::from_millis(50);
    let processes = wait::scaled_rate(10_000) as usize;
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
        acceptor.finish();
        let started = before - TOLERANCE..=Timestamp::now() + TOLERANCE;
        truths.insert(truth.cookie.to_string(), (truth.pid, name, started));
    }
    let records = agent.inbox.wait_for_accepts(port, processes);
    assert_eq!((records.len(), truths.len()), (processes, processes));
    for record in &records {
        let cookie = record.text("acceptd.socket.cookie").expect("a cookie");
        let (pid, name, started) = truths.remove(cookie).expect("a cookie of this scenario, reported once");
        assert_eq!(record.resource_int("process.pid"), Some(i64::from(pid)), "{record:?}");
        assert_eq!(executable(record).0, name, "{record:?}");
        assert_eq!(record.resource_int("process.user.id"), Some(0), "{record:?}");
        let created = record.resource_text("process.creation.time").expect("a creation time");
        assert!(started.contains(&created.parse().expect("a time")), "{created}, not in {started:?}");
    }
    let _ = agent.stop();
}
