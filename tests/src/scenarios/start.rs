//! What was there before the agent.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use acceptd::bpf::Tier;
use rustix::{
    fs::fstat,
    net::{accept, sockopt::socket_cookie},
    thread::{Pid, gettid},
};

use super::{assert_tells, until_in_accept};
use crate::{
    agent::{ACCEPT, Agent},
    truth::Truth,
    wait,
};

pub(super) fn a_thread_that_already_waits_in_accept() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (send, receive) = mpsc::channel();
    let acceptor = thread::spawn(move || {
        send.send(gettid()).expect("the test waits");
        let accepted = accept(&listener).expect("a connection");
        Truth::of(&accepted, &listener)
    });
    let tid = receive.recv().expect("the thread says");
    until_in_accept(tid);
    let agent = Agent::start();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let truth = acceptor.join().expect("it accepts");
    let records = agent.inbox.of_port(port, 1);
    assert_eq!(records.len(), 1);
    assert_tells(&records[0], &truth);
    assert_eq!(records[0].attributes.get("acceptd.accept.verified"), None);
    assert!(records[0].int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.of_port(port, 1).len(), 1, "once");
}

/// Another agent, or any other tracer, attaches to the same functions and leaves again while a thread waits in accept: then
/// the kernel runs no exit program for that thread's call. The thread's last accept is told when the thread ends, another
/// one when it accepts again; that of a thread that does neither, when the agent looks around for the second time.
pub(super) fn another_tracer_comes_and_goes() {
    let agent = Agent::with(&["--set", "listener.interval=500ms"]);
    let mut ports = Vec::new();
    for (accepts, lives_on) in [(1, false), (2, false), (1, true)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        ports.push((port, accepts));
        let (begins, begun) = mpsc::channel();
        let (accepts_all, accepted_all) = mpsc::channel();
        let (lets_end, may_end) = mpsc::channel::<()>();
        let acceptor = thread::spawn(move || {
            begins.send(gettid()).expect("the test waits");
            let accepted: Vec<_> = (0..accepts).map(|_| accept(&listener).expect("a connection")).collect();
            let truths: Vec<_> = accepted.iter().map(|accepted| Truth::of(accepted, &listener)).collect();
            accepts_all.send(truths).expect("the test waits");
            // Until the other end is dropped.
            _ = may_end.recv();
        });
        until_in_accept(begun.recv().expect("the thread says"));
        // Long enough for the backstop to keep what it knows.
        thread::sleep(Duration::from_millis(200));
        let _ = Agent::start().stop();
        let clients: Vec<_> = (0..accepts)
            .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("somebody listens"))
            .collect();
        let truths = accepted_all.recv().expect("it accepts");
        let lets_end = lives_on.then_some(lets_end);
        let records = agent.inbox.of_port(port, accepts);
        drop(lets_end);
        acceptor.join().expect("it ends");
        assert_eq!(records.len(), accepts, "each once");
        for (record, truth) in records.iter().zip(&truths) {
            assert_eq!(record.text("acceptd.socket.cookie"), Some(truth.cookie.to_string().as_str()));
            assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(truth.tid)));
            assert_eq!(record.int("acceptd.listener.fd"), Some(i64::from(truth.listener_fd)));
            assert!(record.int("acceptd.accept.queue_time_ns").is_some(), "{record:?}");
        }
        drop(clients);
    }
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    for (port, accepts) in ports {
        assert_eq!(
            inbox.of_port(port, accepts).len(),
            accepts,
            "each once, also when threads and the agent end"
        );
    }
}

pub(super) fn connections_that_were_already_queued() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let clients: Vec<_> =
        (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a listener")).collect();
    let agent = Agent::start();
    let accepted: Vec<_> = clients.iter().map(|_| accept(&listener).expect("queued")).collect();
    let records = agent.inbox.of_port(port, 3);
    assert_eq!(records.len(), 3);
    for (record, accepted) in records.iter().zip(&accepted) {
        assert_tells(record, &Truth::of(accepted, &listener));
        assert_eq!(record.attributes.get("acceptd.accept.verified"), None, "it was found in the queue");
        assert_eq!(record.int("acceptd.accept.queue_time_ns"), None, "unknown, not 0");
    }
    drop(clients);
    // The ledger's own count is of the whole host: other scenarios' connections may have been queued, too.
    let _ = agent.stop();
}

/// Tier 1 sees it through `security_sock_graft`, which has no descriptors.
pub(super) fn a_thread_that_already_waits_on_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).expect("a new path"));
    let listener_inode = i64::try_from(fstat(&listener).expect("fstat").st_ino).ok();
    let (send, receive) = mpsc::channel();
    let acceptor = thread::spawn(move || {
        send.send(gettid()).expect("the test waits");
        let accepted = accept(&listener).expect("a connection");
        let inode = fstat(&accepted).expect("fstat").st_ino;
        (inode, socket_cookie(&accepted).expect("SO_COOKIE"), accepted, listener)
    });
    let tid = receive.recv().expect("the thread says");
    until_in_accept(tid);
    let agent = Agent::start();
    let _client = UnixStream::connect(&path).expect("somebody listens");
    let (inode, cookie, accepted, _listener) = acceptor.join().expect("it accepts");
    let inode = i64::try_from(inode).ok();
    let of = |record: &crate::record::Record| record.int("acceptd.listener.inode") == listener_inode;
    let records = agent.inbox.of_event(ACCEPT, 1, of);
    let record = &records[0];
    assert_eq!(record.int("acceptd.socket.inode"), inode, "{record:?}");
    assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(tid.as_raw_nonzero().get())));
    assert_eq!(record.text("network.local.address"), path.to_str());
    assert_eq!(record.text("network.transport"), Some("unix"));
    assert_eq!(record.text("acceptd.accept.syscall"), Some("accept"));
    assert_eq!(record.attributes.get("acceptd.accept.blocked_time_ns"), None, "its begin was not seen");
    let fd = i64::from(std::os::fd::AsRawFd::as_raw_fd(&accepted));
    match record.tier() {
        Tier::One => {
            assert_eq!(record.text("acceptd.socket.cookie"), Some(cookie.to_string().as_str()));
            assert!(record.int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0), "{record:?}");
            assert_eq!(record.attributes.get("acceptd.accept.verified"), None, "{record:?}");
            assert_eq!(record.int("acceptd.socket.fd"), None, "{record:?}");
        }
        Tier::Two => {
            assert_eq!(record.bool("acceptd.accept.verified"), Some(false), "{record:?}");
            assert_eq!(record.int("acceptd.socket.fd"), Some(fd), "{record:?}");
        }
    }
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.found(ACCEPT, of).len(), 1, "once");
}

/// So many threads as the machine may have, 10,000 at most.
fn many() -> usize {
    let limit = |name: &str| -> usize {
        let text = fs::read_to_string(format!("/proc/sys/{name}")).expect("a limit");
        text.trim().parse().expect("a number")
    };
    // Each has a stack and a page that guards it.
    (limit("vm/max_map_count") / 30).min(limit("kernel/threads-max") / 20).min(10_000)
}

/// Each of so many threads is blocked in accept when the programs are attached, and then gets one connection.
pub(super) fn many_threads_that_already_wait() {
    const LISTENERS: usize = 100;
    let listeners: Vec<_> =
        (0..LISTENERS).map(|_| Arc::new(TcpListener::bind("127.0.0.1:0").expect("a free port"))).collect();
    let (begins, begun) = mpsc::channel();
    let (accepts, accepted) = mpsc::channel();
    let count = many() / LISTENERS * LISTENERS;
    for listener in listeners.iter().cycle().take(count) {
        let (listener, begins, accepts) = (Arc::clone(listener), begins.clone(), accepts.clone());
        let body = move || {
            begins.send(gettid()).expect("the test waits");
            let connection = accept(&*listener).expect("a connection");
            let cookie = socket_cookie(&connection).expect("SO_COOKIE");
            accepts.send((cookie, gettid())).expect("the test waits");
        };
        thread::Builder::new().stack_size(64 << 10).spawn(body).expect("a thread");
    }
    for tid in begun.iter().take(count) {
        until_in_accept(tid);
    }
    let agent = Agent::start();
    let addresses: Vec<_> =
        listeners.iter().map(|listener| listener.local_addr().expect("an address")).collect();
    for address in addresses.iter().cycle().take(count) {
        drop(TcpStream::connect(address).expect("somebody listens"));
    }
    let truths: HashMap<u64, Pid> = accepted.iter().take(count).collect();
    assert_eq!(truths.len(), count, "every connection has a cookie of its own");
    let ports: Vec<_> = addresses.iter().map(|address| i64::from(address.port())).collect();
    let is_of = |record: &crate::record::Record| {
        record.log.event_name == ACCEPT
            && record.int("network.local.port").is_some_and(|port| ports.contains(&port))
    };
    // Not of this scenario alone, so that it may be too early; what is missing at the end is said with the agent's ledger.
    let since = Instant::now();
    while agent.inbox.count() < count && since.elapsed() < wait::deadline() / 2 {
        thread::sleep(Duration::from_millis(50));
    }
    // The agent's last word is behind every record: a second one of a connection would be there.
    let inbox = agent.inbox.clone();
    let ledger = agent.end();
    let mut told = HashSet::new();
    let mut without_cookie = 0;
    for record in inbox.records().into_iter().filter(is_of) {
        let Some(cookie) = record.text("acceptd.socket.cookie").and_then(|cookie| cookie.parse().ok()) else {
            without_cookie += 1;
            continue;
        };
        let tid = truths.get(&cookie).unwrap_or_else(|| panic!("nobody accepted it: {record:?}"));
        assert_eq!(
            record.int("acceptd.thread.id"),
            Some(i64::from(tid.as_raw_nonzero().get())),
            "{record:?}"
        );
        assert!(told.insert(cookie), "twice: {record:?}");
    }
    // A program that is preempted is not run for whoever comes next on that CPU: the kernel counts that, and so do we.
    let missed = ledger["hook_missed"].as_u64().expect("the kernel tells");
    let lacking = (count - told.len()) as u64;
    assert!(lacking <= missed, "{lacking} of {count} connections, {missed} missed: {ledger}");
    assert!(without_cookie <= missed, "{without_cookie} without a cookie, {missed} missed: {ledger}");
    println!("{count} threads waited; {lacking} records missing, of {missed} runs that the kernel left out");
}
