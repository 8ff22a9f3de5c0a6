//! The health of listeners: what fails, what is dropped, what nobody accepts.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::fstat,
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, accept, bind, connect, listen, socket, socket_with, sockopt,
    },
    process::{Pid, Signal, getpid, kill_process},
};

use super::shown;
use crate::{
    agent::{ACCEPT, Agent, binary},
    record::Record,
    wait,
};

const FAILURES: &str = "acceptd.listener.failures";
const OVERFLOW: &str = "acceptd.listener.overflow";
const ABANDONED: &str = "acceptd.listener.abandoned";
const STALLED: &str = "acceptd.listener.stalled";

/// Whether it is under the Resource of this process.
fn is_own(record: &Record) -> bool {
    record.resource_int("process.pid") == Some(i64::from(getpid().as_raw_nonzero().get()))
}

fn inode(fd: &impl std::os::fd::AsFd) -> Option<i64> {
    i64::try_from(fstat(fd).expect("fstat").st_ino).ok()
}

fn tcp_listener(backlog: i32) -> (OwnedFd, SocketAddr) {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&listener, backlog).expect("bound");
    let name = rustix::net::getsockname(&listener).expect("bound");
    (listener, name.try_into().expect("an internet address"))
}

fn sum(records: &[Record], key: &str) -> i64 {
    records.iter().map(|record| record.int(key).expect("a count")).sum()
}

/// Every failure is in a count; records of single ones stop at the budget.
pub(super) fn failures_are_counted_beyond_the_budget() {
    const CALLS: i64 = 500;
    let agent = Agent::with(&[
        "--set",
        "events.failures=true",
        "--set",
        // As long as a tick may be late.
        &format!("listener.interval={}", wait::slowly(Duration::from_millis(200))),
        "--set",
        "capture.failure_budget=3",
    ]);
    // Bound, and not listening.
    let idle = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&idle, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    let started = Instant::now();
    for _ in 0..CALLS {
        assert_eq!(accept(&idle).expect_err("it does not listen"), Errno::INVAL);
    }
    let seconds = started.elapsed().as_secs() + 2;
    let inode = inode(&idle);
    let is_of = |record: &Record| record.int("acceptd.listener.inode") == inode;
    let counted = wait::until("every failure", || {
        let found = agent.inbox.found(FAILURES, is_of);
        (sum(&found, "acceptd.failure.count") >= CALLS).then_some(found)
    });
    assert_eq!(sum(&counted, "acceptd.failure.count"), CALLS);
    for record in &counted {
        assert_eq!(record.text("error.type"), Some("EINVAL"));
        assert!(is_own(record), "{record:?}");
        assert_eq!(record.text("acceptd.listener.address"), Some("127.0.0.1"));
        assert!(record.int("acceptd.interval.duration_ns").is_some_and(|nanos| nanos >= 100_000_000));
    }
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    let singles = inbox.found(ACCEPT, is_of);
    assert!((3..=3 * seconds).contains(&(singles.len() as u64)), "{} records", singles.len());
    let over = ledger["capture"]["aggregated"]["failure_budget"].as_u64().expect("a count");
    assert!(over + (singles.len() as u64) >= CALLS.cast_unsigned(), "{ledger}");
}

/// A descriptor that is no socket has no listener: the failure is counted under its process.
pub(super) fn failures_without_a_listener_are_counted_under_the_process() {
    let agent = Agent::with(&["--set", "events.failures=true", "--set", "listener.interval=200ms"]);
    let file = fs::File::open("/dev/null").expect("/dev/null");
    for _ in 0..4 {
        assert_eq!(accept(&file).expect_err("it is no socket"), Errno::NOTSOCK);
    }
    let is_of = |record: &Record| is_own(record) && record.text("error.type") == Some("ENOTSOCK");
    let counted = wait::until("every failure", || {
        let found = agent.inbox.found(FAILURES, is_of);
        (sum(&found, "acceptd.failure.count") >= 4).then_some(found)
    });
    assert_eq!(sum(&counted, "acceptd.failure.count"), 4);
    assert_eq!(counted[0].attributes.get("acceptd.listener.inode"), None);
    assert!(agent.inbox.found(ACCEPT, is_of).is_empty(), "no record of its own");
    let ledger = agent.stop();
    assert!(ledger["capture"]["aggregated"]["no_listener"].as_u64() >= Some(4), "{ledger}");
}

/// `ListenDrops` of this network namespace.
fn listen_drops() -> i64 {
    let text = fs::read_to_string("/proc/self/net/netstat").expect("netstat");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    let (_, drops) = both.find(|(name, _)| *name == "ListenDrops").expect("ListenDrops");
    drops.parse().expect("a count")
}

/// A queue of four that nobody empties: what is dropped is what the network namespace counts.
pub(super) fn a_full_queue_drops_what_the_kernel_counts() {
    let agent = Agent::with(&["--set", "listener.interval=200ms"]);
    let before = listen_drops();
    let (listener, address) = tcp_listener(4);
    let inode = inode(&listener);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let client = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
            assert_eq!(connect(&client, &address), Err(Errno::INPROGRESS));
            client
        })
        .collect();
    let is_of = |record: &Record| record.int("acceptd.listener.port") == Some(i64::from(address.port()));
    // The clients try again after a second.
    wait::until("drops", || (listen_drops() - before >= 20).then_some(()));
    drop(clients);
    drop(listener);
    let dropped = listen_drops() - before;
    let overflows = wait::until("every drop", || {
        let found = agent.inbox.found(OVERFLOW, is_of);
        (sum(&found, "acceptd.overflow.count") >= dropped).then_some(found)
    });
    assert_eq!(sum(&overflows, "acceptd.overflow.count"), dropped);
    for record in &overflows {
        assert_eq!(record.int("acceptd.listener.inode"), inode);
        assert_eq!(record.int("acceptd.listener.backlog_limit"), Some(4));
        assert!(is_own(record), "who called listen: {record:?}");
        assert_eq!(record.log.severity_number, 17);
    }
    let _ = agent.stop();
}

/// Five connections, and the listener closes.
pub(super) fn connections_that_nobody_accepts() {
    let agent = Agent::start();
    let (listener, address) = tcp_listener(16);
    let inode = inode(&listener);
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("somebody listens")).collect();
    let connected = Instant::now();
    thread::sleep(Duration::from_millis(100));
    let waited = i64::try_from(connected.elapsed().as_nanos()).expect("short");
    drop(listener);
    let abandoned = agent.inbox.of_event(ABANDONED, 5, |record| record.is_of_port(address.port()));
    assert_eq!(abandoned.len(), 5);
    for client in &clients {
        let peer = Some(shown(client.local_addr().expect("connected")));
        let record = abandoned.iter().find(|record| record.endpoint("peer") == peer).expect("a record");
        assert_eq!(record.endpoint("local"), Some(shown(address)));
        assert_eq!(record.log.severity_number, 13);
        assert!(is_own(record), "who called listen: {record:?}");
        assert_eq!(record.int("acceptd.listener.inode"), inode);
        assert!(record.int("acceptd.accept.queue_time_ns") >= Some(waited), "{record:?}");
    }
    let _ = agent.stop();
}

/// A connection that was reset in the queue can still be accepted. It is abandoned only when it is not.
pub(super) fn reset_in_the_queue_and_never_accepted() {
    let agent = Agent::start();
    let (listener, address) = tcp_listener(16);
    let client = TcpStream::connect(address).expect("somebody listens");
    sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket");
    drop(client);
    // A second one arrives after the reset, and is accepted last: by then the first is accepted, too.
    let _second = TcpStream::connect(address).expect("somebody listens");
    let _first = accept(&listener).expect("a reset connection stays in the queue");
    let third = TcpStream::connect(address).expect("somebody listens");
    sockopt::set_socket_linger(&third, Some(Duration::ZERO)).expect("a socket");
    drop(third);
    drop(listener);
    let abandoned = agent.inbox.of_event(ABANDONED, 2, |record| record.is_of_port(address.port()));
    assert_eq!(abandoned.len(), 2, "the second and the third");
    let reset = abandoned.iter().find(|record| record.int("network.peer.port").is_none());
    assert!(reset.is_some(), "the kernel forgot the port of the one that was reset: {abandoned:?}");
    let accepted = agent.inbox.of_port(address.port(), 1);
    assert_eq!(accepted[0].attributes.get("acceptd.accept.verified"), None, "its cookie was kept");
    assert!(accepted[0].int("acceptd.accept.queue_time_ns").is_some());
    let _ = agent.stop();
}

/// A process that accepts five connections of `listener`.
fn acceptor(listener: &OwnedFd) -> Child {
    let inherited = listener.try_clone().expect("a descriptor");
    Command::new(binary("acceptor"))
        .arg("5")
        .stdin(inherited)
        .stdout(Stdio::null())
        .spawn()
        .expect("the acceptor starts")
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it lives");
}

/// Until the process sleeps in accept, or is stopped.
fn until_state(child: &Child, wanted: char) {
    wait::until("the acceptor's state", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
        stat.rsplit(") ").next()?.starts_with(wanted).then_some(())
    });
}

const WATCH: [&str; 6] =
    ["--set", "listener.interval=200ms", "--set", "listener.stalled_after=1s", "--set", "log.level=debug"];

/// SIGSTOP a server and let five clients connect; SIGCONT.
pub(super) fn a_server_that_stops_accepting() {
    let mut agent = Agent::with(&WATCH);
    let (listener, address) = tcp_listener(16);
    let mut server = acceptor(&listener);
    until_state(&server, 'S');
    signal(&server, Signal::STOP);
    until_state(&server, 'T');
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("somebody listens")).collect();
    let is_of = |record: &Record| record.is_of_port(address.port());
    // What each look saw: a longer wait each time.
    agent.until_it_says(&format!("{address}: 5 of 16"));
    let began = agent.inbox.of_event(STALLED, 1, is_of);
    let waits = agent.numbers_after(&format!("{address}: 5 of 16 connections wait, the oldest for "));
    assert!(waits.len() >= 2 && waits.windows(2).all(|two| two[0] < two[1]), "{waits:?}");
    signal(&server, Signal::CONT);
    let both = agent.inbox.of_event(STALLED, 2, is_of);
    drop(clients);
    assert!(server.wait().expect("a child").success());
    assert_eq!(began[0].text("acceptd.listener.stall.state"), Some("began"));
    assert_eq!(began[0].int("acceptd.listener.backlog_length"), Some(5));
    assert_eq!(began[0].int("acceptd.listener.backlog_limit"), Some(16));
    assert!(began[0].int("acceptd.listener.oldest_wait_ns") >= Some(1_000_000_000));
    assert_eq!(began[0].log.severity_number, 17);
    assert_eq!(both[1].text("acceptd.listener.stall.state"), Some("ended"));
    assert!(both[1].int("acceptd.listener.stall.duration_ns").is_some_and(|nanos| nanos > 0));
    assert_eq!(both[1].log.severity_number, 9);
    assert_eq!(agent.inbox.of_port(address.port(), 5).len(), 5, "all were accepted in the end");
    let _ = agent.stop();
    assert_eq!(both.len(), 2, "once each");
}

/// The same server, killed instead.
pub(super) fn a_server_that_is_killed_while_clients_wait() {
    let agent = Agent::with(&WATCH);
    let (listener, address) = tcp_listener(16);
    let mut server = acceptor(&listener);
    drop(listener);
    until_state(&server, 'S');
    signal(&server, Signal::STOP);
    until_state(&server, 'T');
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("somebody listens")).collect();
    let is_of = |record: &Record| record.is_of_port(address.port());
    assert_eq!(agent.inbox.of_event(STALLED, 1, is_of).len(), 1);
    signal(&server, Signal::KILL);
    server.wait().expect("a child");
    let abandoned = agent.inbox.of_event(ABANDONED, 5, is_of);
    assert_eq!(abandoned.len(), 5);
    let ended = agent.inbox.of_event(STALLED, 2, is_of);
    assert_eq!(ended[1].text("acceptd.listener.stall.state"), Some("ended"));
    drop(clients);
    let _ = agent.stop();
}

/// The kernel does not know since when a UNIX connection waits: a lower bound is told.
pub(super) fn a_unix_server_that_stops_accepting() {
    let agent = Agent::with(&WATCH);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("a new path");
    let inode = inode(&listener);
    let connected = Instant::now();
    let client = UnixStream::connect(&path).expect("somebody listens");
    let is_of = |record: &Record| record.int("acceptd.listener.inode") == inode;
    let began = agent.inbox.of_event(STALLED, 1, is_of);
    let most = i64::try_from(connected.elapsed().as_nanos()).expect("short");
    let wait = began[0].int("acceptd.listener.oldest_wait_ns").expect("a wait");
    assert!((1_000_000_000..=most).contains(&wait), "{wait} of {most}");
    assert_eq!(began[0].text("network.transport"), Some("unix"));
    assert_eq!(began[0].text("acceptd.listener.address"), path.to_str());
    assert!(is_own(&began[0]), "{began:?}");
    listener.accept().expect("a connection");
    let both = agent.inbox.of_event(STALLED, 2, is_of);
    assert_eq!(both[1].text("acceptd.listener.stall.state"), Some("ended"));
    drop(client);
    let _ = agent.stop();
}
