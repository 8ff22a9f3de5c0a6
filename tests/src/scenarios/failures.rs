//! Accepts that fail although there is a connection, or that are interrupted before there is one.

use std::{
    fs,
    io::{
        BufRead as _, BufReader, {self},
    },
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

use super::{assert_fields, assert_tells_connection, listener, shown, until_in_accept};
use crate::{
    agent::{ACCEPT, Agent, binary},
    raw,
    truth::Truth,
};

const ABANDONED: &str = "acceptd.listener.abandoned";

/// The kernel takes the connection out of the queue, cannot write the peer's address, and closes the connection again:
/// nobody ever had it. That is a failure, and the connection counts as abandoned.
pub(super) fn bad_address() {
    let agent = Agent::start();
    let (listener, address) = listener();
    let client = TcpStream::connect(address).expect("somebody listens");
    let error = raw::accept_with_a_bad_address(&listener).expect_err("the address is no memory");
    tells_a_bad_address(&agent, 1, address, client, &error);
    // The next connection is accepted as if nothing had been.
    let _client = TcpStream::connect(address).expect("somebody listens");
    let accepted = accept(&listener).expect("a connection");
    let records = agent.inbox.of_port(address.port(), 2);
    assert_tells_connection(&records[1], &Truth::of(&accepted, &listener));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let of = |event| inbox.found(event, |record| record.is_of_port(address.port())).len();
    assert_eq!((of(ACCEPT), of(ABANDONED)), (2, 1), "one failure, one accept, and one lost connection");
}

/// The same of a thread that waited: the backstop has seen that it got its connection.
pub(super) fn bad_address_after_a_wait() {
    const TIMES: usize = 3;
    let agent = Agent::start();
    let (listener, address) = listener();
    for number in 1..=TIMES {
        let (send, receive) = std::sync::mpsc::channel();
        let listener = listener.try_clone().expect("a descriptor");
        let acceptor = thread::spawn(move || {
            send.send(gettid()).expect("the test waits");
            raw::accept_with_a_bad_address(&listener).expect_err("the address is no memory")
        });
        until_in_accept(receive.recv().expect("the thread says"));
        thread::sleep(Duration::from_millis(10));
        let client = TcpStream::connect(address).expect("somebody listens");
        tells_a_bad_address(&agent, number, address, client, &acceptor.join().expect("it fails"));
    }
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let of = |event| inbox.found(event, |record| record.is_of_port(address.port())).len();
    assert_eq!((of(ACCEPT), of(ABANDONED)), (TIMES, TIMES));
}

/// The `number`th failure at `address` by a bad address, which `client` fell victim to.
fn tells_a_bad_address(
    agent: &Agent,
    number: usize,
    address: SocketAddr,
    client: TcpStream,
    error: &io::Error,
) {
    assert_eq!(error.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
    let records = agent.inbox.of_port(address.port(), number);
    let failed = &records[number - 1];
    assert_fields(failed, Case::Failed);
    assert_eq!(failed.text("error.type"), Some("EFAULT"));
    assert_eq!(failed.log.severity_number, 17);
    assert_eq!(failed.text("acceptd.accept.syscall"), Some("accept"));
    assert_eq!(failed.int("acceptd.listener.backlog_length"), Some(0), "it is not in the queue any more");
    let peer = shown(client.local_addr().expect("connected"));
    drop(client);
    let abandoned = agent.inbox.of_event(ABANDONED, 1, |record| record.endpoint("peer") == Some(peer));
    assert!(abandoned[0].is_of_port(address.port()));
}

/// Without `SA_RESTART` the call returns EINTR; with it, and with a timeout on the socket, too (signal(7)). With it alone the
/// call goes on, and the program learns of nothing.
pub(super) fn interrupted() {
    let agent = Agent::start();
    // Nobody else in these tests uses it, and what it does is for the whole process.
    for (number, restarts, times_out) in
        [(Signal::USR1, false, false), (Signal::USR2, true, true), (Signal::USR2, true, false)]
    {
        raw::set_interrupting(number, restarts);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        if times_out {
            let timeout = Some(Duration::from_mins(10));
            sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, timeout).expect("a socket");
        }
        let address = listener.local_addr().expect("an address");
        let (send, receive) = std::sync::mpsc::channel();
        let acceptor = thread::spawn(move || {
            send.send(gettid()).expect("the test waits");
            let first = accept(&listener);
            let accepted = match &first {
                Err(error) => {
                    assert_eq!(*error, Errno::INTR);
                    accept(&listener).expect("a connection")
                }
                Ok(_) => return (false, Truth::of(&first.expect("a connection"), &listener)),
            };
            (true, Truth::of(&accepted, &listener))
        });
        let tid = receive.recv().expect("the thread says");
        until_in_accept(tid);
        raw::interrupt(&acceptor, number);
        // The signal is gone from the thread when it was handled.
        crate::wait::until("the signal is handled", || {
            let status = fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok()?;
            let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"))?;
            pending.trim().chars().all(|digit| digit == '0').then_some(())
        });
        until_in_accept(tid);
        let _client = TcpStream::connect(address).expect("somebody listens");
        let (was_told, truth) = acceptor.join().expect("it accepts");
        assert_eq!(was_told, !restarts || times_out, "signal(7)");
        let records = agent.inbox.of_port(address.port(), 1);
        assert_tells_connection(&records[0], &truth);
        assert_eq!(records[0].text("error.type"), None, "the first record is the accept: {:?}", records[0]);
        assert_eq!(agent.inbox.of_port(address.port(), 1).len(), 1);
    }
    let ledger = agent.stop();
    assert!(ledger["capture"]["aggregated"]["interrupted"].as_u64() >= Some(2), "{ledger}");
}

/// The machine has no file left, which only those are told who lack `CAP_SYS_ADMIN` (`alloc_empty_file`, `fs/file_table.c`).
pub(super) fn no_file() {
    const LIMIT: &str = "/proc/sys/fs/file-max";
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let limit = fs::read_to_string(LIMIT).expect("a limit");
    fs::write(LIMIT, "0").expect("root may");
    let truth = thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            // Of this thread only.
            let all = capabilities(None).expect("of ourselves");
            let mut fewer = all;
            fewer.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, fewer).expect("less is always allowed");
            let refused = accept(&listener);
            set_capabilities(None, all).expect("they are permitted");
            fs::write(LIMIT, &limit).expect("root may");
            assert_eq!(refused.expect_err("there is no file"), Errno::NFILE);
            let accepted = accept(&listener).expect("a connection");
            Truth::of(&accepted, &listener)
        });
        let ended = accepting.join();
        fs::write(LIMIT, &limit).expect("root may");
        ended.expect("it accepts")
    });
    let records = agent.inbox.of_port(port, 2);
    assert_fields(&records[0], Case::Failed);
    assert_eq!(records[0].text("error.type"), Some("ENFILE"), "{:?}", records[0]);
    assert_eq!(records[0].log.severity_number, 17);
    assert_eq!(records[0].int("acceptd.listener.backlog_length"), Some(1), "it stays in the queue");
    assert_tells_connection(&records[1], &truth);
    drop(client);
    let _ = agent.stop();
}

/// A process without a free descriptor: the connection stays in the queue, and is accepted when there is one.
pub(super) fn no_descriptor() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let before = Instant::now();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let connected = Instant::now();
    let mut child = Command::new(binary("acceptor"))
        .args(["full", "1"])
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the acceptor starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut line = move || lines.next().expect("the acceptor speaks").expect("a line");
    assert_eq!(line().parse(), Ok(Errno::MFILE.raw_os_error()));
    let records = agent.inbox.of_port(port, 1);
    let failed = &records[0];
    assert_fields(failed, Case::Failed);
    assert_eq!(failed.text("error.type"), Some("EMFILE"));
    assert_eq!(failed.log.severity_number, 17);
    assert_eq!(failed.int("acceptd.listener.backlog_length"), Some(1), "it stays in the queue");
    assert_eq!(failed.resource_int("process.pid"), Some(i64::from(child.id())));
    let lower = connected.elapsed();
    prlimit(Some(Pid::from_child(&child)), Resource::Nofile, getrlimit(Resource::Nofile)).expect("root may");
    let truth = Truth::parse(&line());
    let upper = before.elapsed();
    let records = agent.inbox.of_port(port, 2);
    assert_eq!(records.len(), 2);
    assert_tells_connection(&records[1], &truth);
    let queued = records[1].nanos("acceptd.accept.queue_time_ns").expect("a queue time");
    assert!(lower <= queued && queued <= upper, "since it connected: {lower:?} <= {queued:?} <= {upper:?}");
    drop(client);
    assert!(child.wait().expect("a child").success());
    let _ = agent.stop();
}
