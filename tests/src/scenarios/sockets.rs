//! TCP accepts by address family, by system call, and by the state that the queued connection is in.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use acceptd::mapping::presence::Case;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, SocketAddrAny, SocketFlags, SocketType, accept, accept_with, bind, connect,
        getsockname, ipproto, listen, socket, socket_with, sockopt,
    },
};

use super::support::{assert_matches_truth, assert_presence, canonical};
use crate::{
    agent::{Agent, tier},
    ground_truth::GroundTruth,
    wait,
};

fn address(socket: &OwnedFd) -> SocketAddr {
    let name: SocketAddrAny = getsockname(socket).expect("a local address");
    name.try_into().expect("an internet address")
}

/// Proves that accept and accept4 on a listener bound to `bind_to` are recorded correctly: identity against
/// the accepting process's own system calls, addresses against the client's socket, the presence of every
/// attribute against the reference table.
fn check_accepts(bind_to: &str, connect_to: &str) {
    let agent = Agent::start();
    let listener = TcpListener::bind(bind_to).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mut truths = Vec::new();
    let mut open = Vec::new();
    for call in ["accept", "accept4"] {
        let client = TcpStream::connect((connect_to, port)).expect("the listener is up");
        let accepted = match call {
            "accept" => accept(&listener),
            _ => accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK),
        };
        let accepted = accepted.expect("a connection");
        truths.push((
            call,
            GroundTruth::from_sockets(&accepted, &listener),
            client.local_addr().expect("connected"),
        ));
        open.push((client, accepted));
    }
    let records = agent.inbox.wait_for_accepts(port, 2);
    assert_eq!(records.len(), 2);
    for (record, (call, truth, client)) in records.iter().zip(&truths) {
        assert_matches_truth(record, truth);
        assert_presence(record, Case::Tcp);
        assert_eq!(record.endpoint("peer"), Some(canonical(*client)));
        assert_eq!(record.text("acceptd.accept.syscall"), Some(*call));
        assert_eq!(record.text("network.transport"), Some("tcp"));
        let family = if client.ip().to_canonical().is_ipv4() { "ipv4" } else { "ipv6" };
        assert_eq!(record.text("network.type"), Some(family));
        let mapped = truth.local.is_ipv6() && family == "ipv4";
        assert_eq!(record.bool("acceptd.socket.v4_mapped"), mapped.then_some(true));
        let bound = listener.local_addr().expect("an address");
        assert_eq!(record.text("acceptd.listener.address"), Some(bound.ip().to_string().as_str()));
        assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(port)));
        assert_eq!(record.int("acceptd.listener.backlog_length"), Some(0));
        assert_eq!(
            record.int("acceptd.listener.backlog_limit"),
            Some(128),
            "std listens with a backlog of 128"
        );
        assert_eq!(
            record.attributes.get("acceptd.accept.verified"),
            None,
            "the socket is verified by its cookie"
        );
        assert!(record.int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
        assert_eq!(record.int("acceptd.netns.inode"), Some(netns()));
        assert_eq!(record.tier(), tier());
        // No spans are sent.
        assert_eq!((record.log.trace_id.len(), record.log.span_id.len(), record.log.flags), (0, 0, 0));
    }
    drop(open);
    let _ = agent.stop();
}

/// The inode of this process's network namespace, from the link `/proc/self/ns/net`.
fn netns() -> i64 {
    let link = std::fs::read_link("/proc/self/ns/net").expect("a network namespace");
    let link = link.to_string_lossy().into_owned();
    link.trim_start_matches("net:[").trim_end_matches(']').parse().expect("net:[N]")
}

/// IPv4 client and listener.
pub(super) fn ipv4() {
    check_accepts("127.0.0.1:0", "127.0.0.1");
}

/// IPv6 client and listener.
pub(super) fn ipv6() {
    check_accepts("[::1]:0", "::1");
}

/// An IPv4 client on an IPv6 listener: addresses are recorded as IPv4, and marked as mapped.
pub(super) fn ipv4_on_an_ipv6_socket() {
    check_accepts("[::]:0", "127.0.0.1");
}

/// A listener on 0.0.0.0: the record has the address that the client connected to.
pub(super) fn bound_to_any_address() {
    check_accepts("0.0.0.0:0", "127.0.0.2");
}

/// An accept that returns EAGAIN is counted in the ledger, and makes no record.
pub(super) fn an_empty_queue_is_counted_without_a_record() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    for _ in 0..7 {
        assert_eq!(accept(&listener).expect_err("an empty queue"), Errno::AGAIN);
    }
    let port = listener.local_addr().expect("an address").port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let accepted = wait::until("the connection", || accept(&listener).ok());
    let truth = GroundTruth::from_sockets(&accepted, &listener);
    let records = agent.inbox.wait_for_accepts(port, 1);
    assert_matches_truth(&records[0], &truth);
    let ledger = agent.stop();
    assert!(ledger["capture"]["aggregated"]["again"].as_u64() >= Some(7), "{ledger}");
}

/// An accept that fails with EINVAL is recorded with that errno, without connection and without trace id.
pub(super) fn a_failure_is_recorded_with_its_errno() {
    let agent = Agent::start();
    // The socket is bound but does not listen, so accept returns EINVAL.
    let idle = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&idle, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    assert_eq!(accept(&idle).expect_err("not a listener"), Errno::INVAL);
    let port = address(&idle).port();
    let records = agent.inbox.wait_for_accepts(port, 1);
    let failed = &records[0];
    assert_presence(failed, Case::Failed);
    assert_eq!(failed.text("error.type"), Some("EINVAL"));
    assert_eq!(failed.log.severity_number, 13);
    assert_eq!((failed.endpoint("local"), failed.endpoint("peer")), (None, None));
    assert_eq!(failed.int("acceptd.listener.port"), Some(i64::from(port)));
    assert!(failed.log.trace_id.is_empty() && failed.log.span_id.is_empty());
    let _ = agent.stop();
}

/// The recorded queue time lies between the bounds that the test measures around connect and accept.
pub(super) fn queue_time() {
    const WAIT: Duration = Duration::from_millis(200);
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let before = Instant::now();
    let clients: Vec<_> =
        (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a listener")).collect();
    let connected = Instant::now();
    thread::sleep(WAIT);
    let lower = connected.elapsed();
    let accepted: Vec<_> = clients.iter().map(|_| accept(&listener).expect("a queued connection")).collect();
    let upper = before.elapsed();
    let records = agent.inbox.wait_for_accepts(port, 3);
    for (waiting, record) in [2, 1, 0].into_iter().zip(&records) {
        let queued = record.int("acceptd.accept.queue_time_ns").and_then(|nanos| u64::try_from(nanos).ok());
        let queued = Duration::from_nanos(queued.expect("a queue time"));
        assert!(lower <= queued && queued <= upper, "{lower:?} <= {queued:?} <= {upper:?}");
        assert_eq!(record.int("acceptd.listener.backlog_length"), Some(waiting), "after the dequeue");
    }
    drop((clients, accepted));
    let _ = agent.stop();
}

/// A connection that the client reset before the accept keeps both of its ports in the record, although
/// getpeername(2) fails and the kernel has cleared them.
pub(super) fn reset_while_queued() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let peer = client.local_addr().expect("connected");
    sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket");
    drop(client);
    let accepted = accept(&listener).expect("a reset connection stays in the queue");
    let truth = GroundTruth::from_sockets(&accepted, &listener);
    assert_eq!(truth.peer, None, "getpeername(2) fails");
    let records = agent.inbox.wait_for_accepts(port, 1);
    assert_matches_truth(&records[0], &truth);
    assert_eq!(records[0].endpoint("local"), Some(canonical(truth.local)), "the local port is kept");
    assert_eq!(records[0].endpoint("peer"), Some(canonical(peer)), "the address the client had");
    let _ = agent.stop();
}

/// A connection that the client closed before the accept is recorded like any other.
pub(super) fn closed_while_queued() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(TcpStream::connect(("127.0.0.1", port)).expect("the listener is up"));
    let accepted = accept(&listener).expect("a closed connection stays in the queue");
    let truth = GroundTruth::from_sockets(&accepted, &listener);
    let records = agent.inbox.wait_for_accepts(port, 1);
    assert_matches_truth(&records[0], &truth);
    let _ = agent.stop();
}

/// A thread with its own name: the record has thread id and thread name, the Resource the executable's name.
pub(super) fn named_thread() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = thread::Builder::new().name("own-name".to_owned()).spawn(move || {
        let accepted = accept(&listener).expect("a connection");
        GroundTruth::from_sockets(&accepted, &listener)
    });
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let truth = acceptor.expect("a thread").join().expect("the acceptor thread");
    let records = agent.inbox.wait_for_accepts(port, 1);
    assert_matches_truth(&records[0], &truth);
    assert_ne!(truth.tid, truth.pid);
    assert_eq!(records[0].text("acceptd.thread.name"), Some("own-name"));
    let executable = std::env::current_exe().expect("a path");
    let name = executable.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(
        records[0].resource_text("process.executable.name"),
        Some(name.as_str()),
        "not the thread's name"
    );
    let _ = agent.stop();
}

/// Five MPTCP and five plain TCP clients on one MPTCP listener (Go's default since 1.24) make ten records
/// with ten cookies. The agent does not change which of the accepted sockets share an `SO_COOKIE`.
pub(super) fn mptcp() {
    let cookies_without = mptcp_cookies(None);
    let agent = Agent::start();
    let cookies_with = mptcp_cookies(Some(&agent));
    // Cookies come from a counter, so values differ between runs. Which sockets share one must not differ.
    let shape = |cookies: &[u64]| -> Vec<usize> {
        cookies.iter().map(|cookie| cookies.iter().filter(|other| *other == cookie).count()).collect()
    };
    assert_eq!(shape(&cookies_with), shape(&cookies_without), "{cookies_with:?} {cookies_without:?}");
    let _ = agent.stop();
}

/// `SO_COOKIE` of each accepted socket. Never query the listener's: accepted sockets would then inherit it.
fn mptcp_cookies(agent: Option<&Agent>) -> Vec<u64> {
    let mptcp = Some(ipproto::MPTCP);
    let stream = |protocol: Option<Protocol>| {
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, protocol)
            .expect("a socket")
    };
    let listener = stream(mptcp);
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&listener, 16).expect("bound");
    let at = address(&listener);
    let mut open = Vec::new();
    let mut cookies = Vec::new();
    for number in 0..10 {
        let client = stream(if number % 2 == 0 { mptcp } else { None });
        connect(&client, &at).expect("the listener is up");
        let accepted = accept(&listener).expect("a connection");
        cookies.push(sockopt::socket_cookie(accepted.as_fd()).expect("SO_COOKIE"));
        open.push((address(&client), client, accepted));
    }
    if let Some(agent) = agent {
        let records = agent.inbox.wait_for_accepts(at.port(), 10);
        assert_eq!(records.len(), 10);
        for record in &records {
            let is_mptcp = record.bool("acceptd.socket.mptcp").is_some();
            assert_presence(record, if is_mptcp { Case::Mptcp } else { Case::Tcp });
        }
        let identities: std::collections::HashSet<_> = records
            .iter()
            .map(|record| record.text("acceptd.socket.cookie").expect("a cookie").to_owned())
            .collect();
        assert_eq!(identities.len(), 10, "ten connections, ten cookies");
        for (number, (record, (client, ..))) in records.iter().zip(&open).enumerate() {
            assert_eq!(record.endpoint("peer"), Some(canonical(*client)));
            assert_eq!(record.text("network.transport"), Some("tcp"));
            assert_eq!(record.bool("acceptd.socket.mptcp"), (number % 2 == 0).then_some(true), "{record:?}");
            assert!(record.int("acceptd.accept.queue_time_ns").is_some(), "{record:?}");
            assert_eq!(
                record.int("acceptd.listener.backlog_limit"),
                Some(16),
                "the backlog of the first subflow"
            );
        }
    }
    cookies
}

/// Accepts through the i386 entry are recorded once each: by accept4 and by socketcall, whose numbers differ
/// from `x86_64`'s. Number 43 is times(2) there, and makes no record.
#[cfg(target_arch = "x86_64")]
pub(super) fn i386() {
    use crate::{i386, inbox::ACCEPT};

    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let accept4: fn(&TcpListener) -> std::io::Result<OwnedFd> = |listener| i386::accept4(listener);
    let socketcall: fn(&TcpListener) -> std::io::Result<OwnedFd> =
        |listener| i386::socketcall(listener, false);
    let with_flags: fn(&TcpListener) -> std::io::Result<OwnedFd> =
        |listener| i386::socketcall(listener, true);
    let mut truths = Vec::new();
    let mut open = Vec::new();
    for (accept, name) in [(accept4, "accept4"), (socketcall, "accept"), (with_flags, "accept4")] {
        let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
        i386::times();
        let accepted = accept(&listener).expect("a connection");
        truths.push((name, GroundTruth::from_sockets(&accepted, &listener)));
        open.push((client, accepted));
    }
    let records = agent.inbox.wait_for_accepts(port, 3);
    for (record, (name, truth)) in records.iter().zip(&truths) {
        assert_matches_truth(record, truth);
        assert_eq!(record.text("acceptd.accept.syscall"), Some(*name));
        assert_eq!(record.attributes.get("acceptd.accept.verified"), None);
    }
    let thread = Some(i64::from(truths[0].1.tid));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let all = inbox.records();
    let matches = |record: &&crate::record::Record| {
        record.log.event_name == ACCEPT && record.int("acceptd.thread.id") == thread
    };
    let of_this_thread = all.iter().filter(matches).count();
    assert_eq!(of_this_thread, 3, "times(2) makes no record, not even of a failure");
}
