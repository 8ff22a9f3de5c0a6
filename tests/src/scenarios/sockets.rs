//! Families, calls, and the states that a queued connection can be in.

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

use super::{assert_fields, assert_tells, shown};
use crate::{
    agent::{Agent, tier},
    truth::Truth,
    wait,
};

fn address(socket: &OwnedFd) -> SocketAddr {
    let name: SocketAddrAny = getsockname(socket).expect("a bound socket has a name");
    name.try_into().expect("an internet address")
}

/// One listener, `calls` accepts through accept and accept4 in turn, each held against the truth.
fn accepts_of(bind_to: &str, connect_to: &str) {
    let agent = Agent::start();
    let listener = TcpListener::bind(bind_to).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mut truths = Vec::new();
    let mut open = Vec::new();
    for call in ["accept", "accept4"] {
        let client = TcpStream::connect((connect_to, port)).expect("somebody listens");
        let accepted = match call {
            "accept" => accept(&listener),
            _ => accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK),
        };
        let accepted = accepted.expect("a connection");
        truths.push((call, Truth::of(&accepted, &listener), client.local_addr().expect("connected")));
        open.push((client, accepted));
    }
    let records = agent.inbox.of_port(port, 2);
    assert_eq!(records.len(), 2);
    for (record, (call, truth, client)) in records.iter().zip(&truths) {
        assert_tells(record, truth);
        assert_fields(record, Case::Tcp);
        assert_eq!(record.endpoint("peer"), Some(shown(*client)));
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
        assert_eq!(record.int("acceptd.listener.backlog_limit"), Some(128), "std listens with 128");
        assert_eq!(record.attributes.get("acceptd.accept.verified"), None, "it is proven");
        assert!(record.int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
        assert_eq!(record.int("acceptd.netns.inode"), Some(netns()));
        assert_eq!(record.tier(), tier());
        assert_eq!((record.log.trace_id.len(), record.log.span_id.len(), record.log.flags), (16, 8, 0));
    }
    drop(open);
    let _ = agent.stop();
}

/// The N of `net:[N]`, as the kernel shows it to this process.
fn netns() -> i64 {
    let link = std::fs::read_link("/proc/self/ns/net").expect("a network namespace");
    let link = link.to_string_lossy().into_owned();
    link.trim_start_matches("net:[").trim_end_matches(']').parse().expect("net:[N]")
}

pub(super) fn ipv4() {
    accepts_of("127.0.0.1:0", "127.0.0.1");
}

pub(super) fn ipv6() {
    accepts_of("[::1]:0", "::1");
}

pub(super) fn ipv4_on_an_ipv6_socket() {
    accepts_of("[::]:0", "127.0.0.1");
}

pub(super) fn bound_to_any_address() {
    accepts_of("0.0.0.0:0", "127.0.0.2");
}

pub(super) fn an_empty_queue_is_counted_and_no_record() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    for _ in 0..7 {
        assert_eq!(accept(&listener).expect_err("nobody connected"), Errno::AGAIN);
    }
    let port = listener.local_addr().expect("an address").port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let accepted = wait::until("the connection", || accept(&listener).ok());
    let truth = Truth::of(&accepted, &listener);
    let records = agent.inbox.of_port(port, 1);
    assert_tells(&records[0], &truth);
    let ledger = agent.stop();
    assert!(ledger["capture"]["aggregated"]["again"].as_u64() >= Some(7), "{ledger}");
}

pub(super) fn a_failure_is_a_record_with_its_errno() {
    let agent = Agent::start();
    // Bound, not listening: EINVAL.
    let idle = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&idle, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    assert_eq!(accept(&idle).expect_err("it does not listen"), Errno::INVAL);
    let port = address(&idle).port();
    let records = agent.inbox.of_port(port, 1);
    let failed = &records[0];
    assert_fields(failed, Case::Failed);
    assert_eq!(failed.text("error.type"), Some("EINVAL"));
    assert_eq!(failed.log.severity_number, 13);
    assert_eq!((failed.endpoint("local"), failed.endpoint("peer")), (None, None));
    assert_eq!(failed.int("acceptd.listener.port"), Some(i64::from(port)));
    assert!(failed.log.trace_id.is_empty() && failed.log.span_id.is_empty());
    let _ = agent.stop();
}

pub(super) fn the_time_in_the_queue_is_the_time_in_the_queue() {
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
    let accepted: Vec<_> = clients.iter().map(|_| accept(&listener).expect("queued")).collect();
    let upper = before.elapsed();
    let records = agent.inbox.of_port(port, 3);
    for (left, record) in [2, 1, 0].into_iter().zip(&records) {
        let queued = record.int("acceptd.accept.queue_time_ns").and_then(|nanos| u64::try_from(nanos).ok());
        let queued = Duration::from_nanos(queued.expect("a queue time"));
        assert!(lower <= queued && queued <= upper, "{lower:?} <= {queued:?} <= {upper:?}");
        assert_eq!(record.int("acceptd.listener.backlog_length"), Some(left), "after the dequeue");
    }
    drop((clients, accepted));
    let _ = agent.stop();
}

pub(super) fn reset_while_queued() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let peer = client.local_addr().expect("connected");
    sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket");
    drop(client);
    let accepted = accept(&listener).expect("a reset connection stays in the queue");
    let truth = Truth::of(&accepted, &listener);
    assert_eq!(truth.peer, None, "getpeername fails on it");
    let records = agent.inbox.of_port(port, 1);
    assert_tells(&records[0], &truth);
    assert_eq!(records[0].endpoint("local"), Some(shown(truth.local)), "the port is not 0");
    assert_eq!(records[0].endpoint("peer"), Some(shown(peer)), "the client's own word");
    let _ = agent.stop();
}

pub(super) fn closed_while_queued() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(TcpStream::connect(("127.0.0.1", port)).expect("somebody listens"));
    let accepted = accept(&listener).expect("a closed connection stays in the queue");
    let truth = Truth::of(&accepted, &listener);
    let records = agent.inbox.of_port(port, 1);
    assert_tells(&records[0], &truth);
    let _ = agent.stop();
}

pub(super) fn a_thread_with_a_name_of_its_own() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = thread::Builder::new().name("own-name".to_owned()).spawn(move || {
        let accepted = accept(&listener).expect("a connection");
        Truth::of(&accepted, &listener)
    });
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let truth = acceptor.expect("a thread").join().expect("it accepts");
    let records = agent.inbox.of_port(port, 1);
    assert_tells(&records[0], &truth);
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

/// Five MPTCP and five plain accepts on one MPTCP listener, as Go listens by default: ten identities, and
/// applications see the cookies that they would see without the agent.
pub(super) fn mptcp() {
    let cookies_without = mptcp_cookies(None);
    let agent = Agent::start();
    let cookies_with = mptcp_cookies(Some(&agent));
    // A cookie is a counter that grows for everybody; what must not change is which sockets share one.
    let shape = |cookies: &[u64]| -> Vec<usize> {
        cookies.iter().map(|cookie| cookies.iter().filter(|other| *other == cookie).count()).collect()
    };
    assert_eq!(shape(&cookies_with), shape(&cookies_without), "{cookies_with:?} {cookies_without:?}");
    let _ = agent.stop();
}

/// `SO_COOKIE` of each accepted socket, asked before the listener's: that would make them inherit it.
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
        connect(&client, &at).expect("somebody listens");
        let accepted = accept(&listener).expect("a connection");
        cookies.push(sockopt::socket_cookie(accepted.as_fd()).expect("SO_COOKIE"));
        open.push((address(&client), client, accepted));
    }
    if let Some(agent) = agent {
        let records = agent.inbox.of_port(at.port(), 10);
        assert_eq!(records.len(), 10);
        for record in &records {
            let is_mptcp = record.bool("acceptd.socket.mptcp").is_some();
            assert_fields(record, if is_mptcp { Case::Mptcp } else { Case::Tcp });
        }
        let identities: std::collections::HashSet<_> = records
            .iter()
            .map(|record| record.text("acceptd.socket.cookie").expect("a cookie").to_owned())
            .collect();
        assert_eq!(identities.len(), 10, "ten connections, ten cookies");
        let traces: std::collections::HashSet<_> =
            records.iter().map(|record| record.log.trace_id.clone()).collect();
        assert_eq!(traces.len(), 10);
        for (number, (record, (client, ..))) in records.iter().zip(&open).enumerate() {
            assert_eq!(record.endpoint("peer"), Some(shown(*client)));
            assert_eq!(record.text("network.transport"), Some("tcp"));
            assert_eq!(record.bool("acceptd.socket.mptcp"), (number % 2 == 0).then_some(true), "{record:?}");
            assert!(record.int("acceptd.accept.queue_time_ns").is_some(), "{record:?}");
            assert_eq!(record.int("acceptd.listener.backlog_limit"), Some(16), "of the first subflow");
        }
    }
    cookies
}

/// A 32-bit program accepts by other numbers, and 43 means times(2) to it, not accept.
#[cfg(target_arch = "x86_64")]
pub(super) fn i386() {
    use crate::{agent::ACCEPT, i386};

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
        let client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
        i386::times();
        let accepted = accept(&listener).expect("a connection");
        truths.push((name, Truth::of(&accepted, &listener)));
        open.push((client, accepted));
    }
    let records = agent.inbox.of_port(port, 3);
    for (record, (name, truth)) in records.iter().zip(&truths) {
        assert_tells(record, truth);
        assert_eq!(record.text("acceptd.accept.syscall"), Some(*name));
        assert_eq!(record.attributes.get("acceptd.accept.verified"), None);
    }
    let thread = Some(i64::from(truths[0].1.tid));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let all = inbox.records();
    let is_of = |record: &&crate::record::Record| {
        record.log.event_name == ACCEPT && record.int("acceptd.thread.id") == thread
    };
    let of_this_thread = all.iter().filter(is_of).count();
    assert_eq!(of_this_thread, 3, "times(2) is no accept, not even a failed one");
}
