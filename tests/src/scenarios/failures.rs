//! Accepts that fail although a connection is queued, and accepts that a signal interrupts.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use acceptd::mapping::presence::Case;
use rustix::{
    io::Errno,
    net::{accept, sockopt},
    process::{Pid, Resource, Signal, getrlimit, prlimit},
    thread::{CapabilitySet, capabilities, gettid, set_capabilities},
};

use super::support::{
    assert_connection_matches_truth, assert_presence, canonical, listener, until_in_accept,
};
use crate::{
    agent::{Agent, binary},
    ground_truth::GroundTruth,
    inbox::ACCEPT,
    raw,
};

const ABANDONED: &str = "acceptd.listener.abandoned";

/// accept with a bad address pointer: the kernel dequeues the connection, fails to write the peer's address,
/// and closes the connection, which no process ever had. The record is a failure with EFAULT, and the
/// connection is reported as abandoned.
pub(super) fn bad_address() {
    let agent = Agent::start();
    let (listener, address) = listener();
    let client = TcpStream::connect(address).expect("the listener is up");
    let error = raw::accept_with_a_bad_address(&listener).expect_err("an unmapped address");
    assert_bad_address_failure(&agent, 1, address, client, &error);
    // The next connection is accepted normally.
    let _client = TcpStream::connect(address).expect("the listener is up");
    let accepted = accept(&listener).expect("a connection");
    let records = agent.inbox.wait_for_accepts(address.port(), 2);
    assert_connection_matches_truth(&records[1], &GroundTruth::from_sockets(&accepted, &listener));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let count = |event| inbox.events(event, |record| record.is_on_port(address.port())).len();
    assert_eq!((count(ACCEPT), count(ABANDONED)), (2, 1), "one failure, one accept, and one lost connection");
}

/// The same for a thread that was blocked in accept, whose dequeue the fallback hook has seen: it must not
/// report a successful accept.
pub(super) fn bad_address_after_a_wait() {
    const TIMES: usize = 3;
    let agent = Agent::start();
    let (listener, address) = listener();
    for number in 1..=TIMES {
        let (send, receive) = std::sync::mpsc::channel();
        let listener = listener.try_clone().expect("a descriptor");
        let acceptor = thread::spawn(move || {
            send.send(gettid()).expect("the test thread receives");
            raw::accept_with_a_bad_address(&listener).expect_err("an unmapped address")
        });
        until_in_accept(receive.recv().expect("the thread's id"));
        thread::sleep(Duration::from_millis(10));
        let client = TcpStream::connect(address).expect("the listener is up");
        assert_bad_address_failure(
            &agent,
            number,
            address,
            client,
            &acceptor.join().expect("the acceptor thread"),
        );
    }
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let count = |event| inbox.events(event, |record| record.is_on_port(address.port())).len();
    assert_eq!((count(ACCEPT), count(ABANDONED)), (TIMES, TIMES));
}

/// Checks the records of the `number`th accept at `address` that failed with EFAULT, and of its connection
/// from `client`.
fn assert_bad_address_failure(
    agent: &Agent,
    number: usize,
    address: SocketAddr,
    client: TcpStream,
    error: &io::Error,
) {
    assert_eq!(error.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
    let records = agent.inbox.wait_for_accepts(address.port(), number);
    let failed = &records[number - 1];
    assert_presence(failed, Case::Failed);
    assert_eq!(failed.text("error.type"), Some("EFAULT"));
    assert_eq!(failed.log.severity_number, 17);
    assert_eq!(failed.text("acceptd.accept.syscall"), Some("accept"));
    assert_eq!(failed.int("acceptd.listener.backlog_length"), Some(0), "the connection left the queue");
    let peer = canonical(client.local_addr().expect("connected"));
    drop(client);
    let abandoned = agent.inbox.wait_for_events(ABANDONED, 1, |record| record.endpoint("peer") == Some(peer));
    assert!(abandoned[0].is_on_port(address.port()));
}

/// A signal that interrupts a blocked accept makes no record, but is counted. Without `SA_RESTART`, or with
/// it and a receive timeout on the socket, the call returns EINTR (signal(7)); otherwise the kernel restarts
/// the call. The accept that follows is recorded once.
pub(super) fn interrupted() {
    let agent = Agent::start();
    // Signal handlers belong to the whole process; no other scenario uses these two signals.
    for (number, restarts, times_out) in
        [(Signal::USR1, false, false), (Signal::USR2, true, true), (Signal::USR2, true, false)]
    {
        raw::install_interrupting_handler(number, restarts);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        if times_out {
            let timeout = Some(Duration::from_mins(10));
            sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, timeout).expect("a socket");
        }
        let address = listener.local_addr().expect("an address");
        let (send, receive) = std::sync::mpsc::channel();
        let acceptor = thread::spawn(move || {
            send.send(gettid()).expect("the test thread receives");
            let first = accept(&listener);
            let accepted = match &first {
                Err(error) => {
                    assert_eq!(*error, Errno::INTR);
                    accept(&listener).expect("a connection")
                }
                Ok(_) => return (false, GroundTruth::from_sockets(&first.expect("a connection"), &listener)),
            };
            (true, GroundTruth::from_sockets(&accepted, &listener))
        });
        let tid = receive.recv().expect("the thread's id");
        until_in_accept(tid);
        raw::interrupt(&acceptor, number);
        // The signal is handled once it is no longer pending for the thread.
        crate::wait::until("the signal is handled", || {
            let status = fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok()?;
            let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"))?;
            pending.trim().chars().all(|digit| digit == '0').then_some(())
        });
        until_in_accept(tid);
        let _client = TcpStream::connect(address).expect("the listener is up");
        let (returned_eintr, truth) = acceptor.join().expect("the acceptor thread");
        assert_eq!(returned_eintr, !restarts || times_out, "signal(7)");
        let records = agent.inbox.wait_for_accepts(address.port(), 1);
        assert_connection_matches_truth(&records[0], &truth);
        assert_eq!(records[0].text("error.type"), None, "the first record is the accept: {:?}", records[0]);
        assert_eq!(agent.inbox.wait_for_accepts(address.port(), 1).len(), 1);
    }
    let ledger = agent.stop();
    assert!(ledger["capture"]["aggregated"]["interrupted"].as_u64() >= Some(2), "{ledger}");
}

/// accept fails with ENFILE while `fs.file-max` is exhausted: it is recorded as a failure, and the connection
/// stays in the queue. The kernel enforces the limit only for threads without `CAP_SYS_ADMIN`
/// (`alloc_empty_file`, `fs/file_table.c`).
pub(super) fn no_file() {
    const LIMIT: &str = "/proc/sys/fs/file-max";
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let limit = fs::read_to_string(LIMIT).expect("a limit");
    fs::write(LIMIT, "0").expect("root privileges");
    let truth = thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            // Capabilities are per thread, so only this thread is affected.
            let all = capabilities(None).expect("capget(2)");
            let mut fewer = all;
            fewer.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, fewer).expect("dropping a capability is always allowed");
            let refused = accept(&listener);
            set_capabilities(None, all).expect("the capabilities are still permitted");
            fs::write(LIMIT, &limit).expect("root privileges");
            assert_eq!(refused.expect_err("no free file"), Errno::NFILE);
            let accepted = accept(&listener).expect("a connection");
            GroundTruth::from_sockets(&accepted, &listener)
        });
        let truth = accepting.join();
        fs::write(LIMIT, &limit).expect("root privileges");
        truth.expect("the acceptor thread")
    });
    let records = agent.inbox.wait_for_accepts(port, 2);
    assert_presence(&records[0], Case::Failed);
    assert_eq!(records[0].text("error.type"), Some("ENFILE"), "{:?}", records[0]);
    assert_eq!(records[0].log.severity_number, 17);
    assert_eq!(
        records[0].int("acceptd.listener.backlog_length"),
        Some(1),
        "the connection stays in the queue"
    );
    assert_connection_matches_truth(&records[1], &truth);
    drop(client);
    let _ = agent.stop();
}

/// accept fails with EMFILE while the process has no free descriptor: the failure is recorded, the connection
/// stays in the queue, and the later accept has the queue time since the connect.
pub(super) fn no_descriptor() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let before = Instant::now();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let connected = Instant::now();
    let mut child = Command::new(binary("acceptor"))
        .args(["full", "1"])
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the acceptor starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut line = move || lines.next().expect("a line from the acceptor").expect("a line");
    assert_eq!(line().parse(), Ok(Errno::MFILE.raw_os_error()));
    let records = agent.inbox.wait_for_accepts(port, 1);
    let failed = &records[0];
    assert_presence(failed, Case::Failed);
    assert_eq!(failed.text("error.type"), Some("EMFILE"));
    assert_eq!(failed.log.severity_number, 17);
    assert_eq!(failed.int("acceptd.listener.backlog_length"), Some(1), "the connection stays in the queue");
    assert_eq!(failed.resource_int("process.pid"), Some(i64::from(child.id())));
    let lower = connected.elapsed();
    prlimit(Some(Pid::from_child(&child)), Resource::Nofile, getrlimit(Resource::Nofile))
        .expect("root privileges");
    let truth = GroundTruth::parse(&line());
    let upper = before.elapsed();
    let records = agent.inbox.wait_for_accepts(port, 2);
    assert_eq!(records.len(), 2);
    assert_connection_matches_truth(&records[1], &truth);
    let queued = records[1].nanos("acceptd.accept.queue_time_ns").expect("a queue time");
    assert!(lower <= queued && queued <= upper, "since the connect: {lower:?} <= {queued:?} <= {upper:?}");
    drop(client);
    assert!(child.wait().expect("waitpid").success());
    let _ = agent.stop();
}
