//! The owner of a listener: a process that has it open now, and of several one that accepts on it.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::fstat,
    net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt},
    process::{Pid, Signal, kill_process},
};

use crate::{
    agent::{Agent, binary},
    metrics::points,
    record::Record,
    wait,
};

const STALLED: &str = "acceptd.listener.stalled";
const ABANDONED: &str = "acceptd.listener.abandoned";
const WATCH: [&str; 2] = ["--set=listener.interval=200ms", "--set=listener.stalled_after=1s"];

/// A socket that listens on 127.0.0.1 and shares its port with others. This process calls listen.
fn shared_listener(port: u16) -> (OwnedFd, SocketAddr) {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a socket");
    sockopt::set_socket_reuseport(&socket, true).expect("a new socket");
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).expect("a free port, or one that is shared");
    listen(&socket, 64).expect("bound");
    let address = SocketAddr::try_from(getsockname(&socket).expect("a name")).expect("IPv4");
    (socket, address)
}

/// A process with `listener` as its standard input, which accepts as its arguments say.
fn server(listener: &OwnedFd, program: &Path, arguments: &[&str]) -> Child {
    let inherited = listener.try_clone().expect("a descriptor");
    let mut command = Command::new(program);
    command.args(arguments).stdin(inherited).stdout(Stdio::null());
    command.spawn().expect("the acceptor starts")
}

fn pid_of(child: &Child) -> i64 {
    i64::from(child.id())
}

fn owner_pid(record: &Record) -> i64 {
    record.resource_int("process.pid").expect("a process")
}

/// Waits until the process is in this state of `/proc/PID/stat`: `S` (it waits in accept) or `T`.
fn until_state(child: &Child, wanted: char) {
    wait::until("the process's state", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
        stat.rsplit(") ").next()?.starts_with(wanted).then_some(())
    });
}

fn stop_running(child: &Child) {
    until_state(child, 'S');
    kill_process(Pid::from_child(child), Signal::STOP).expect("it is alive");
    until_state(child, 'T');
}

fn end(mut child: Child) {
    child.kill().expect("it is alive");
    child.wait().expect("a child");
}

/// The stalls of a port so far.
fn first_stall(agent: &Agent, port: u16) -> Record {
    agent.inbox.wait_for_events(STALLED, 1, |record| record.is_on_port(port)).remove(0)
}

/// Like nginx with `daemon on`: the process that called listen has closed the socket, its child has it open.
pub(super) fn of_a_daemon() {
    let agent = Agent::with_flags(&WATCH);
    let (listener, address) = shared_listener(0);
    let daemon = server(&listener, &binary("acceptor"), &["1"]);
    drop(listener);
    stop_running(&daemon);
    let _client = TcpStream::connect(address).expect("the listener is up");
    let stall = first_stall(&agent, address.port());
    assert_eq!(owner_pid(&stall), pid_of(&daemon), "{stall:?}");
    assert_eq!(stall.resource_text("process.executable.name"), Some("acceptor"));
    end(daemon);
    let _ = agent.stop();
}

/// Prefork, and a socket that systemd passed on: the parent called listen and has the socket open, too, but
/// its children accept.
pub(super) fn of_a_socket_that_children_accept_on() {
    let agent = Agent::with_flags(&WATCH);
    let (listener, address) = shared_listener(0);
    // The parent has a lower process id than its children, so it comes first in each survey.
    let workers = [0, 1].map(|_| server(&listener, &binary("acceptor"), &["9"]));
    for worker in &workers {
        until_state(worker, 'S');
    }
    let accepted = TcpStream::connect(address).expect("the listener is up");
    let record = agent.inbox.wait_for_accepts(address.port(), 1).remove(0);
    let acceptor = owner_pid(&record);
    workers.iter().for_each(stop_running);
    let _client = TcpStream::connect(address).expect("the listener is up");
    let stall = first_stall(&agent, address.port());
    assert_eq!(owner_pid(&stall), acceptor, "{stall:?}");
    assert!(workers.iter().any(|worker| pid_of(worker) == acceptor));
    drop(accepted);
    workers.into_iter().for_each(end);
    let _ = agent.stop();
}

/// Exec in the same process, without an accept after it: records and metrics have the new program's name.
pub(super) fn of_a_process_that_executes_another_program() {
    let agent = Agent::with_flags(
        &[&WATCH[..], &["--set=metrics.export=true", "--set=metrics.interval=500ms"]].concat(),
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let after = folder.path().join("after-exec");
    fs::copy(binary("acceptor"), &after).expect("the folder is writable");
    let (listener, address) = shared_listener(0);
    let program = after.to_str().expect("a plain path");
    let server = server(&listener, &binary("acceptor"), &["1", program, "9"]);
    drop(listener);
    drop(TcpStream::connect(address).expect("the listener is up"));
    let port = address.port();
    let _ = agent.inbox.wait_for_accepts(port, 1);
    let exe = format!("/proc/{}/exe", server.id());
    wait::until("the other program", || fs::read_link(&exe).ok()?.ends_with("after-exec").then_some(()));
    let inbox = agent.inbox.clone();
    let named = |name: &str| {
        let all = inbox.last_metrics().as_ref().map(points).unwrap_or_default();
        all.iter().any(|point| {
            point.name == "acceptd.listener.count"
                && point.is_on_port(port)
                && point.text("process.executable.name") == Some(name)
                && point.value > 0.5
        })
    };
    wait::until("a series of the new name", || named("after-exec").then_some(()));
    stop_running(&server);
    let _client = TcpStream::connect(address).expect("the listener is up");
    let stall = first_stall(&agent, port);
    assert_eq!(owner_pid(&stall), pid_of(&server));
    assert_eq!(stall.resource_text("process.executable.name"), Some("after-exec"));
    end(server);
    let _ = agent.stop();
}

/// The accept queues of the listeners on a port, by inode: column `rx_queue` of /proc/net/tcp.
fn queues(port: u16) -> BTreeMap<i64, usize> {
    let text = fs::read_to_string("/proc/self/net/tcp").expect("/proc/net/tcp");
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let wanted = format!(":{port:04X}");
    rows.filter(|row| row[1].ends_with(&wanted) && row[3] == "0A")
        .map(|row| {
            let (_, queue) = row[4].split_once(':').expect("tx_queue:rx_queue");
            (row[9].parse().expect("an inode"), usize::from_str_radix(queue, 16).expect("a length"))
        })
        .collect()
}

/// Two workers with a listener each on one port (`SO_REUSEPORT`) die together: each connection in a queue is
/// reported under the worker in whose queue it was, as /proc/net/tcp counted them.
pub(super) fn of_workers_with_a_queue_each() {
    const CLIENTS: usize = 24;
    let agent = Agent::start();
    let (first, address) = shared_listener(0);
    let port = address.port();
    let (second, _) = shared_listener(port);
    let inodes = [&first, &second].map(|fd| i64::try_from(fstat(fd).expect("fstat").st_ino).expect("small"));
    let workers = [&first, &second].map(|listener| server(listener, &binary("acceptor"), &["9"]));
    drop((first, second));
    workers.iter().for_each(stop_running);
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).expect("a listener")).collect();
    let queued = wait::until("every connection in a queue", || {
        let queued = queues(port);
        (queued.values().sum::<usize>() == CLIENTS).then_some(queued)
    });
    assert!(queued.values().all(|length| *length > 0), "the kernel spreads them: {queued:?}");
    let pids = workers.each_ref().map(pid_of);
    for worker in &workers {
        kill_process(Pid::from_child(worker), Signal::KILL).expect("it is alive");
    }
    for mut worker in workers {
        worker.wait().expect("a child");
    }
    let abandoned = agent.inbox.wait_for_events(ABANDONED, CLIENTS, |record| record.is_on_port(port));
    assert_eq!(abandoned.len(), CLIENTS);
    let mut told: BTreeMap<i64, usize> = BTreeMap::new();
    for record in &abandoned {
        let inode = record.int("acceptd.listener.inode").expect("its listener");
        *told.entry(inode).or_default() += 1;
        let worker = inodes.iter().position(|known| *known == inode).expect("one of the two");
        assert_eq!(owner_pid(record), pids[worker], "{record:?}");
    }
    assert_eq!(told, queued);
    drop(clients);
    let _ = agent.stop();
}

/// Short-lived network namespaces, listeners and processes while the agent surveys them: it reports no stall
/// and no overflow, and each abandoned connection under the process that had the listener open. Alone, like
/// the scenario above: a process that another scenario starts has every descriptor open until it executes its
/// program, and may be the last one that does.
pub(super) fn of_namespaces_that_end_during_a_survey() {
    let agent = Agent::with_flags(&["--set=listener.interval=100ms", "--set=listener.stalled_after=1s"]);
    let mut ports = Vec::new();
    for _ in 0..60 {
        crate::netns::in_new_netns(&[], || {
            let (listener, address) = shared_listener(0);
            ports.push(address.port());
            let child = server(&listener, &binary("acceptor"), &["1"]);
            drop(listener);
            drop(TcpStream::connect(address).expect("the listener is up"));
            end(child);
        });
    }
    let is_ours = |record: &Record| ports.iter().any(|port| record.is_on_port(*port));
    for event in [STALLED, "acceptd.listener.overflow"] {
        assert_eq!(agent.inbox.events(event, is_ours).len(), 0, "{event}");
    }
    for record in agent.inbox.events(ABANDONED, is_ours) {
        assert_eq!(record.resource_text("process.executable.name"), Some("acceptor"), "{record:?}");
    }
    assert!(!agent.stderr().contains("cannot survey"), "{}", agent.stderr());
    let _ = agent.stop();
}
