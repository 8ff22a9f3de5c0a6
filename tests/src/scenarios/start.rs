//! Threads and connections that existed before the agent started.

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

use super::support::{assert_matches_truth, until_in_accept};
use crate::{agent::Agent, ground_truth::GroundTruth, inbox::ACCEPT, wait};

/// A thread that was blocked in accept before the programs were attached: its accept is recorded once,
/// verified, and with its queue time.
pub(super) fn a_thread_already_blocked_in_accept() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (send, receive) = mpsc::channel();
    let acceptor = thread::spawn(move || {
        send.send(gettid()).expect("the test thread receives");
        let accepted = accept(&listener).expect("a connection");
        GroundTruth::from_sockets(&accepted, &listener)
    });
    let tid = receive.recv().expect("the thread's id");
    until_in_accept(tid);
    let agent = Agent::start();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let truth = acceptor.join().expect("the acceptor thread");
    let records = agent.inbox.wait_for_accepts(port, 1);
    assert_eq!(records.len(), 1);
    assert_matches_truth(&records[0], &truth);
    assert_eq!(records[0].attributes.get("acceptd.accept.verified"), None);
    assert!(records[0].int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.wait_for_accepts(port, 1).len(), 1, "exactly one record");
}

/// Another tracer attaches to the same functions and detaches while a thread is blocked in accept: the kernel
/// then runs no exit program for that call. The accept is recorded once all the same: when the thread exits,
/// when it accepts again, or, for a thread that does neither, at the agent's second survey.
pub(super) fn another_tracer_attaches_and_detaches() {
    let agent = Agent::with_flags(&["--set", "listener.interval=500ms"]);
    let mut ports = Vec::new();
    for (accepts, lives_on) in [(1, false), (2, false), (1, true)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        ports.push((port, accepts));
        let (begins, begun) = mpsc::channel();
        let (accepts_all, accepted_all) = mpsc::channel();
        let (lets_end, may_end) = mpsc::channel::<()>();
        let acceptor = thread::spawn(move || {
            begins.send(gettid()).expect("the test thread receives");
            let accepted: Vec<_> = (0..accepts).map(|_| accept(&listener).expect("a connection")).collect();
            let truths: Vec<_> =
                accepted.iter().map(|accepted| GroundTruth::from_sockets(accepted, &listener)).collect();
            accepts_all.send(truths).expect("the test thread receives");
            // Blocks until the test drops the sender.
            _ = may_end.recv();
        });
        until_in_accept(begun.recv().expect("the thread's id"));
        // Long enough for the fallback hook to store what it knows of the call.
        thread::sleep(Duration::from_millis(200));
        let _ = Agent::start().stop();
        let clients: Vec<_> = (0..accepts)
            .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("the listener is up"))
            .collect();
        let truths = accepted_all.recv().expect("the acceptor thread");
        let lets_end = lives_on.then_some(lets_end);
        let records = agent.inbox.wait_for_accepts(port, accepts);
        drop(lets_end);
        acceptor.join().expect("the process exits");
        assert_eq!(records.len(), accepts, "each accept once");
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
            inbox.wait_for_accepts(port, accepts).len(),
            accepts,
            "each accept once, also after the threads and the agent have exited"
        );
    }
}

/// Connections that were queued before the agent started are recorded as verified, since the agent's survey
/// found them in the queue, and without a queue time.
pub(super) fn connections_already_queued() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let clients: Vec<_> =
        (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a listener")).collect();
    let agent = Agent::start();
    let accepted: Vec<_> = clients.iter().map(|_| accept(&listener).expect("a queued connection")).collect();
    let records = agent.inbox.wait_for_accepts(port, 3);
    assert_eq!(records.len(), 3);
    for (record, accepted) in records.iter().zip(&accepted) {
        assert_matches_truth(record, &GroundTruth::from_sockets(accepted, &listener));
        assert_eq!(
            record.attributes.get("acceptd.accept.verified"),
            None,
            "verified: the survey found it in the queue"
        );
        assert_eq!(record.int("acceptd.accept.queue_time_ns"), None, "absent because unknown, not 0");
    }
    drop(clients);
    // The ledger's count covers the whole host, with other scenarios' connections, so it is not compared.
    let _ = agent.stop();
}

/// A thread that was blocked in accept on a UNIX socket before the agent started: its accept is recorded
/// once. Tier 1 sees it through `security_sock_graft`, which has no descriptor; tier 2 cannot verify it.
pub(super) fn a_thread_already_blocked_on_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).expect("an unused path"));
    let listener_inode = i64::try_from(fstat(&listener).expect("fstat").st_ino).ok();
    let (send, receive) = mpsc::channel();
    let acceptor = thread::spawn(move || {
        send.send(gettid()).expect("the test thread receives");
        let accepted = accept(&listener).expect("a connection");
        let inode = fstat(&accepted).expect("fstat").st_ino;
        (inode, socket_cookie(&accepted).expect("SO_COOKIE"), accepted, listener)
    });
    let tid = receive.recv().expect("the thread's id");
    until_in_accept(tid);
    let agent = Agent::start();
    let _client = UnixStream::connect(&path).expect("the listener is up");
    let (inode, cookie, accepted, _listener) = acceptor.join().expect("the acceptor thread");
    let inode = i64::try_from(inode).ok();
    let same_listener =
        |record: &crate::record::Record| record.int("acceptd.listener.inode") == listener_inode;
    let records = agent.inbox.wait_for_events(ACCEPT, 1, same_listener);
    let record = &records[0];
    assert_eq!(record.int("acceptd.socket.inode"), inode, "{record:?}");
    assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(tid.as_raw_nonzero().get())));
    assert_eq!(record.text("network.local.address"), path.to_str());
    assert_eq!(record.text("network.transport"), Some("unix"));
    assert_eq!(record.text("acceptd.accept.syscall"), Some("accept"));
    assert_eq!(
        record.attributes.get("acceptd.accept.blocked_time_ns"),
        None,
        "the entry of the call was not seen"
    );
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
    assert_eq!(inbox.events(ACCEPT, same_listener).len(), 1, "exactly one record");
}

/// How many threads this machine allows the scenario: at most 10,000.
fn many() -> usize {
    let limit = |name: &str| -> usize {
        let text = fs::read_to_string(format!("/proc/sys/{name}")).expect("a limit");
        text.trim().parse().expect("a number")
    };
    // Each thread needs two mappings, for its stack and its guard page; leave room for others.
    (limit("vm/max_map_count") / 30).min(limit("kernel/threads-max") / 20).min(10_000)
}

/// Up to 10,000 threads are blocked in accept when the programs are attached, and each then gets one
/// connection: each is recorded once, with the right thread, except for as many as the kernel says it skipped
/// program runs.
pub(super) fn many_threads_already_blocked() {
    const LISTENERS: usize = 100;
    let listeners: Vec<_> =
        (0..LISTENERS).map(|_| Arc::new(TcpListener::bind("127.0.0.1:0").expect("a free port"))).collect();
    let (begins, begun) = mpsc::channel();
    let (accepts, accepted) = mpsc::channel();
    let count = many() / LISTENERS * LISTENERS;
    for listener in listeners.iter().cycle().take(count) {
        let (listener, begins, accepts) = (Arc::clone(listener), begins.clone(), accepts.clone());
        let body = move || {
            begins.send(gettid()).expect("the test thread receives");
            let connection = accept(&*listener).expect("a connection");
            let cookie = socket_cookie(&connection).expect("SO_COOKIE");
            accepts.send((cookie, gettid())).expect("the test thread receives");
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
        drop(TcpStream::connect(address).expect("the listener is up"));
    }
    let truths: HashMap<u64, Pid> = accepted.iter().take(count).collect();
    assert_eq!(truths.len(), count, "every connection has a cookie of its own");
    let ports: Vec<_> = addresses.iter().map(|address| i64::from(address.port())).collect();
    let matches = |record: &crate::record::Record| {
        record.log.event_name == ACCEPT
            && record.int("network.local.port").is_some_and(|port| ports.contains(&port))
    };
    // The count includes other accepts, so this may end early. Missing records are compared with the ledger
    // below.
    let since = Instant::now();
    while agent.inbox.count() < count && since.elapsed() < wait::deadline() / 2 {
        thread::sleep(Duration::from_millis(50));
    }
    // Stopping the agent flushes every record, so a duplicate would be visible.
    let inbox = agent.inbox.clone();
    let ledger = agent.terminate();
    let mut recorded = HashSet::new();
    let mut without_cookie = 0;
    for record in inbox.records().into_iter().filter(matches) {
        let Some(cookie) = record.text("acceptd.socket.cookie").and_then(|cookie| cookie.parse().ok()) else {
            without_cookie += 1;
            continue;
        };
        let tid = truths.get(&cookie).unwrap_or_else(|| panic!("no thread accepted it: {record:?}"));
        assert_eq!(
            record.int("acceptd.thread.id"),
            Some(i64::from(tid.as_raw_nonzero().get())),
            "{record:?}"
        );
        assert!(recorded.insert(cookie), "recorded twice: {record:?}");
    }
    // The kernel skips, and counts, runs of a program on a CPU on which it was preempted.
    let missed = crate::agent::skipped_runs(&ledger);
    let missing = (count - recorded.len()) as u64;
    assert!(missing <= missed, "{missing} of {count} connections, {missed} runs skipped: {ledger}");
    assert!(without_cookie <= missed, "{without_cookie} without a cookie, {missed} runs skipped: {ledger}");
    println!(
        "{count} threads waited; {missing} records missing, {missed} program runs skipped by the kernel"
    );
}
