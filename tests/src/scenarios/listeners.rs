//! The health of listeners: failures, overflowing queues, abandoned connections, stalls.

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
    net::{AddressFamily, SocketFlags, SocketType, accept, bind, listen, socket, socket_with, sockopt},
    process::{Pid, Signal, getpid, kill_process},
};

use super::support::canonical;
use crate::{
    agent::{Agent, binary},
    inbox::ACCEPT,
    record::Record,
    wait,
};

const FAILURES: &str = "acceptd.listener.failures";
const ABANDONED: &str = "acceptd.listener.abandoned";
const STALLED: &str = "acceptd.listener.stalled";

/// Whether the record's Resource is this process.
fn is_own(record: &Record) -> bool {
    record.resource_int("process.pid") == Some(i64::from(getpid().as_raw_nonzero().get()))
}

fn inode(fd: &impl std::os::fd::AsFd) -> Option<i64> {
    i64::try_from(fstat(fd).expect("fstat").st_ino).ok()
}

fn tcp_listener(backlog: i32) -> (OwnedFd, SocketAddr) {
    // CLOEXEC: a process that another scenario starts would be a holder of the listener, too.
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let listener = listener.expect("a socket");
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&listener, backlog).expect("bound");
    let name = rustix::net::getsockname(&listener).expect("bound");
    (listener, name.try_into().expect("an internet address"))
}

fn sum(records: &[Record], key: &str) -> i64 {
    records.iter().map(|record| record.int(key).expect("a count")).sum()
}

/// Every one of 500 failed accepts is in the listener's failure count, while `capture.failure_budget` limits
/// the records of single failures to 3 a second. The ledger counts the rest.
pub(super) fn failures_are_counted_beyond_the_budget() {
    const CALLS: i64 = 500;
    let agent = Agent::with_flags(&[
        "--set",
        "events.failures=true",
        "--set",
        // Stretched on slow machines, where the interval's timer fires late.
        &format!("listener.interval={}", wait::scaled_timeout(Duration::from_millis(200))),
        "--set",
        "capture.failure_budget=3",
    ]);
    // The socket is bound but does not listen.
    let idle = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&idle, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    let started = Instant::now();
    for _ in 0..CALLS {
        assert_eq!(accept(&idle).expect_err("not a listener"), Errno::INVAL);
    }
    let seconds = started.elapsed().as_secs() + 2;
    let inode = inode(&idle);
    let matches = |record: &Record| record.int("acceptd.listener.inode") == inode;
    let counted = wait::until("every failure", || {
        let found = agent.inbox.events(FAILURES, matches);
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
    let singles = inbox.events(ACCEPT, matches);
    assert!((3..=3 * seconds).contains(&(singles.len() as u64)), "{} records", singles.len());
    let over = ledger["capture"]["aggregated"]["failure_budget"].as_u64().expect("a count");
    assert!(over + (singles.len() as u64) >= CALLS.cast_unsigned(), "{ledger}");
}

/// Failures of accept on a descriptor that is not a socket are counted under the process, without a listener.
pub(super) fn failures_without_a_listener_are_counted_under_the_process() {
    let agent = Agent::with_flags(&["--set", "events.failures=true", "--set", "listener.interval=200ms"]);
    let file = fs::File::open("/dev/null").expect("/dev/null");
    for _ in 0..4 {
        assert_eq!(accept(&file).expect_err("not a socket"), Errno::NOTSOCK);
    }
    let matches = |record: &Record| is_own(record) && record.text("error.type") == Some("ENOTSOCK");
    let counted = wait::until("every failure", || {
        let found = agent.inbox.events(FAILURES, matches);
        (sum(&found, "acceptd.failure.count") >= 4).then_some(found)
    });
    assert_eq!(sum(&counted, "acceptd.failure.count"), 4);
    assert_eq!(counted[0].attributes.get("acceptd.listener.inode"), None);
    assert!(agent.inbox.events(ACCEPT, matches).is_empty(), "no record of a single failure");
    let ledger = agent.stop();
    assert!(ledger["capture"]["aggregated"]["no_listener"].as_u64() >= Some(4), "{ledger}");
}

/// Five queued connections are each reported as abandoned when the listener closes, with peer and queue time.
pub(super) fn connections_never_accepted() {
    let agent = Agent::start();
    let (listener, address) = tcp_listener(16);
    let inode = inode(&listener);
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("the listener is up")).collect();
    let connected = Instant::now();
    thread::sleep(Duration::from_millis(100));
    let waited = i64::try_from(connected.elapsed().as_nanos()).expect("short");
    drop(listener);
    let abandoned = agent.inbox.wait_for_events(ABANDONED, 5, |record| record.is_on_port(address.port()));
    assert_eq!(abandoned.len(), 5);
    for client in &clients {
        let peer = Some(canonical(client.local_addr().expect("connected")));
        let record = abandoned.iter().find(|record| record.endpoint("peer") == peer).expect("a record");
        assert_eq!(record.endpoint("local"), Some(canonical(address)));
        assert_eq!(record.log.severity_number, 13);
        assert!(is_own(record), "the Resource is the process that called listen: {record:?}");
        assert_eq!(record.int("acceptd.listener.inode"), inode);
        assert!(record.int("acceptd.accept.queue_time_ns") >= Some(waited), "{record:?}");
    }
    let _ = agent.stop();
}

/// A connection that was reset while queued can still be accepted, and is then recorded with its queue time.
/// Only those that are never accepted are reported as abandoned; the kernel no longer knows the peer's port
/// of a reset one.
pub(super) fn reset_in_the_queue_and_never_accepted() {
    let agent = Agent::start();
    let (listener, address) = tcp_listener(16);
    let client = TcpStream::connect(address).expect("the listener is up");
    sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket");
    drop(client);
    // The second connection is queued behind the reset one, which the accept below returns.
    let _second = TcpStream::connect(address).expect("the listener is up");
    let _first = accept(&listener).expect("a reset connection stays in the queue");
    let third = TcpStream::connect(address).expect("the listener is up");
    sockopt::set_socket_linger(&third, Some(Duration::ZERO)).expect("a socket");
    drop(third);
    drop(listener);
    let abandoned = agent.inbox.wait_for_events(ABANDONED, 2, |record| record.is_on_port(address.port()));
    assert_eq!(abandoned.len(), 2, "the second and the third");
    let reset = abandoned.iter().find(|record| record.int("network.peer.port").is_none());
    assert!(reset.is_some(), "the kernel clears the port of a connection that was reset: {abandoned:?}");
    let accepted = agent.inbox.wait_for_accepts(address.port(), 1);
    assert_eq!(
        accepted[0].attributes.get("acceptd.accept.verified"),
        None,
        "verified by the cookie that was stored"
    );
    assert!(accepted[0].int("acceptd.accept.queue_time_ns").is_some());
    let _ = agent.stop();
}

/// A child process that accepts five connections on `listener`.
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
    kill_process(Pid::from_child(child), signal).expect("the process is alive");
}

/// Waits until the process has this state in `/proc/PID/stat`: `S` (sleeping in accept) or `T` (stopped).
fn until_state(child: &Child, wanted: char) {
    wait::until("the acceptor's state", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
        stat.rsplit(") ").next()?.starts_with(wanted).then_some(())
    });
}

const WATCH: [&str; 6] =
    ["--set", "listener.interval=200ms", "--set", "listener.stalled_after=1s", "--set", "log.level=debug"];

/// A server stopped with SIGSTOP while five clients wait: one stall event when it begins and one when it ends
/// after SIGCONT, with queue length, limit and oldest wait. Each survey logs a longer wait, and all five are
/// accepted.
pub(super) fn a_server_that_stops_accepting() {
    let mut agent = Agent::with_flags(&WATCH);
    let (listener, address) = tcp_listener(16);
    let mut server = acceptor(&listener);
    until_state(&server, 'S');
    signal(&server, Signal::STOP);
    until_state(&server, 'T');
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("the listener is up")).collect();
    let matches = |record: &Record| record.is_on_port(address.port());
    // Each survey of the listener logs the wait, which grows.
    agent.wait_for_message(&format!("{address}: 5 of 16"));
    let first = agent.inbox.wait_for_events(STALLED, 1, matches);
    let waits = agent.numbers_after(&format!("{address}: 5 of 16 connections wait, the oldest for "));
    assert!(waits.len() >= 2 && waits.windows(2).all(|two| two[0] < two[1]), "{waits:?}");
    signal(&server, Signal::CONT);
    let both = agent.inbox.wait_for_events(STALLED, 2, matches);
    drop(clients);
    assert!(server.wait().expect("waitpid").success());
    assert_eq!(first[0].text("acceptd.listener.stall.state"), Some("began"));
    assert_eq!(first[0].int("acceptd.listener.backlog_length"), Some(5));
    assert_eq!(first[0].int("acceptd.listener.backlog_limit"), Some(16));
    assert!(first[0].int("acceptd.listener.oldest_wait_ns") >= Some(1_000_000_000));
    assert_eq!(first[0].log.severity_number, 17);
    assert_eq!(both[1].text("acceptd.listener.stall.state"), Some("ended"));
    assert!(both[1].int("acceptd.listener.stall.duration_ns").is_some_and(|nanos| nanos > 0));
    assert_eq!(both[1].log.severity_number, 9);
    assert_eq!(
        agent.inbox.wait_for_accepts(address.port(), 5).len(),
        5,
        "every connection was accepted in the end"
    );
    let _ = agent.stop();
    assert_eq!(both.len(), 2, "one begin and one end");
}

/// The same server, killed: the stall ends, and each queued connection is reported as abandoned.
pub(super) fn a_server_that_is_killed_while_clients_wait() {
    let agent = Agent::with_flags(&WATCH);
    let (listener, address) = tcp_listener(16);
    let mut server = acceptor(&listener);
    drop(listener);
    until_state(&server, 'S');
    signal(&server, Signal::STOP);
    until_state(&server, 'T');
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("the listener is up")).collect();
    let matches = |record: &Record| record.is_on_port(address.port());
    assert_eq!(agent.inbox.wait_for_events(STALLED, 1, matches).len(), 1);
    signal(&server, Signal::KILL);
    server.wait().expect("waitpid");
    let abandoned = agent.inbox.wait_for_events(ABANDONED, 5, matches);
    assert_eq!(abandoned.len(), 5);
    let stalls = agent.inbox.wait_for_events(STALLED, 2, matches);
    assert_eq!(stalls[1].text("acceptd.listener.stall.state"), Some("ended"));
    drop(clients);
    let _ = agent.stop();
}

/// The kernel does not know since when a UNIX connection has waited: the stall event has a lower bound of the
/// wait.
pub(super) fn a_unix_server_that_stops_accepting() {
    let agent = Agent::with_flags(&WATCH);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("an unused path");
    let inode = inode(&listener);
    let connected = Instant::now();
    let client = UnixStream::connect(&path).expect("the listener is up");
    let matches = |record: &Record| record.int("acceptd.listener.inode") == inode;
    let first = agent.inbox.wait_for_events(STALLED, 1, matches);
    let most = i64::try_from(connected.elapsed().as_nanos()).expect("short");
    let wait = first[0].int("acceptd.listener.oldest_wait_ns").expect("a wait");
    assert!((1_000_000_000..=most).contains(&wait), "{wait} of {most}");
    assert_eq!(first[0].text("network.transport"), Some("unix"));
    assert_eq!(first[0].text("acceptd.listener.address"), path.to_str());
    assert!(is_own(&first[0]), "{first:?}");
    listener.accept().expect("a connection");
    let both = agent.inbox.wait_for_events(STALLED, 2, matches);
    assert_eq!(both[1].text("acceptd.listener.stall.state"), Some("ended"));
    drop(client);
    let _ = agent.stop();
}
