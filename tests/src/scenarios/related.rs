//! Events of calls other than accept: bind, listen, create, accept attempts; and blocked times.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use acceptd::bpf::Tier;
use io_uring::{opcode, types};
use rustix::{
    fs::fstat,
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketType, accept, bind, listen, socket},
    process::getpid,
    thread::gettid,
};

use super::support::until_in_accept;
use crate::{
    agent::{Agent, tier},
    inbox::ACCEPT,
    record::Record,
    uring,
};

const LISTEN: &str = "acceptd.socket.listen";
const BIND: &str = "acceptd.socket.bind";
const CREATE: &str = "acceptd.socket.create";
const ATTEMPT: &str = "acceptd.socket.accept_attempt";

fn inode(fd: &OwnedFd) -> Option<i64> {
    i64::try_from(fstat(fd).expect("fstat").st_ino).ok()
}

/// Waits for an event on this socket, and checks process, thread and tier. The socket's inode is in
/// `acceptd.socket.inode` or `acceptd.listener.inode`, depending on the event.
fn event_on(agent: &Agent, event: &str, socket: &OwnedFd) -> Record {
    let inode = inode(socket);
    let matches = |record: &Record| {
        record.int("acceptd.socket.inode").or_else(|| record.int("acceptd.listener.inode")) == inode
    };
    let record = agent.inbox.wait_for_events(event, 1, matches).remove(0);
    let pid = i64::from(getpid().as_raw_nonzero().get());
    assert_eq!(record.resource_int("process.pid"), Some(pid));
    assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(gettid().as_raw_nonzero().get())));
    assert_eq!(record.tier(), tier());
    record
}

fn tcp() -> OwnedFd {
    socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket")
}

fn name_of(socket: &OwnedFd) -> SocketAddr {
    rustix::net::getsockname(socket).expect("bound").try_into().expect("an internet address")
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// bind and listen are reported by default, with the addresses and arguments of the calls; create and accept
/// attempts are not.
pub(super) fn bind_and_listen() {
    let agent = Agent::start();
    let server = tcp();
    bind(&server, &any_port()).expect("a free port");
    listen(&server, 33).expect("bound");
    let at = name_of(&server);
    let bound = event_on(&agent, BIND, &server);
    assert_eq!(bound.endpoint("local"), Some((at.ip(), at.port())));
    assert_eq!(bound.int("acceptd.socket.fd"), Some(i64::from(server.as_raw_fd())));
    assert_eq!(bound.text("acceptd.socket.type"), Some("stream"));
    assert_eq!((bound.text("network.transport"), bound.text("network.type")), (Some("tcp"), Some("ipv4")));
    assert_eq!((bound.text("error.type"), bound.log.severity_number), (None, 9));
    let listens = event_on(&agent, LISTEN, &server);
    assert_eq!(listens.text("acceptd.listener.address"), Some("127.0.0.1"));
    assert_eq!(listens.int("acceptd.listener.port"), Some(i64::from(at.port())));
    assert_eq!(listens.int("acceptd.listener.backlog_requested"), Some(33));
    assert_eq!(listens.int("acceptd.listener.backlog_limit"), Some(33));
    assert_eq!(listens.int("acceptd.listener.fd"), Some(i64::from(server.as_raw_fd())));
    let cookie = rustix::net::sockopt::socket_cookie(&server).expect("SO_COOKIE").to_string();
    assert_eq!(listens.text("acceptd.listener.cookie"), Some(cookie.as_str()));
    for event in [CREATE, ATTEMPT] {
        assert!(agent.inbox.events(event, |_| true).is_empty(), "{event} is off");
    }
    let _ = agent.stop();
}

/// With both events off no record is made, but the agent still tracks listeners.
pub(super) fn switched_off() {
    let agent = Agent::with_flags(&["--set", "events.listen=false", "--set", "events.bind=false"]);
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = server.local_addr().expect("an address");
    let _client = TcpStream::connect(at).expect("the listener is up");
    server.accept().expect("a connection");
    assert_eq!(agent.inbox.wait_for_accepts(at.port(), 1).len(), 1);
    assert!(agent.inbox.events(LISTEN, |_| true).is_empty() && agent.inbox.events(BIND, |_| true).is_empty());
    let ledger = agent.stop();
    assert!(
        ledger["capture"]["bookkeeping"].as_u64() >= Some(1),
        "the agent still tracks listeners: {ledger}"
    );
}

/// A failed bind is recorded with its errno and the requested address, for TCP and UNIX sockets.
pub(super) fn a_bind_that_fails() {
    let agent = Agent::start();
    let (first, second) = (tcp(), tcp());
    bind(&first, &any_port()).expect("a free port");
    listen(&first, 1).expect("bound");
    let at = name_of(&first);
    assert_eq!(bind(&second, &at), Err(Errno::ADDRINUSE));
    let failed = event_on(&agent, BIND, &second);
    assert_eq!(failed.text("error.type"), Some("EADDRINUSE"));
    assert_eq!(failed.endpoint("local"), Some((at.ip(), at.port())), "the requested address");
    assert_eq!(failed.log.severity_number, 13);

    let unix = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    let path = "/nonexistent-folder/server.sock";
    assert_eq!(bind(&unix, &SocketAddrUnix::new(path).expect("short")), Err(Errno::NOENT));
    let failed = event_on(&agent, BIND, &unix);
    assert_eq!(
        (failed.text("error.type"), failed.text("network.local.address")),
        (Some("ENOENT"), Some(path))
    );
    assert_eq!(
        (failed.text("network.transport"), failed.text("acceptd.socket.type")),
        (Some("unix"), Some("seqpacket"))
    );
    let _ = agent.stop();
}

/// `events.create` reports sockets that can be accepted on, and no datagram sockets.
pub(super) fn create() {
    let agent = Agent::with_flags(&["--set", "events.create=true"]);
    let datagrams = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
    let created = socket(AddressFamily::INET6, SocketType::STREAM, None).expect("a socket");
    let record = event_on(&agent, CREATE, &created);
    assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(created.as_raw_fd())));
    assert_eq!((record.text("network.transport"), record.text("network.type")), (Some("tcp"), Some("ipv6")));
    let datagrams = inode(&datagrams);
    let others = agent.inbox.events(CREATE, |record| record.int("acceptd.socket.inode") == datagrams);
    assert!(others.is_empty(), "{others:?}");
    let _ = agent.stop();
}

/// With `events.accept_attempt` an attempt is reported before the accept, whose record has the time that the
/// thread was blocked, within the bounds that the test measured.
pub(super) fn attempt_and_blocked_time() {
    const WAIT: Duration = Duration::from_millis(150);
    let agent = Agent::with_flags(&["--set", "events.accept_attempt=true"]);
    let server = tcp();
    bind(&server, &any_port()).expect("a free port");
    listen(&server, 8).expect("bound");
    let at = name_of(&server);
    let client = thread::spawn(move || {
        thread::sleep(WAIT);
        TcpStream::connect(at).expect("the listener is up")
    });
    let before = Instant::now();
    let accepted = accept(&server).expect("a connection");
    let upper = i64::try_from(before.elapsed().as_nanos()).expect("short");
    let attempt = event_on(&agent, ATTEMPT, &server);
    assert_eq!(attempt.int("acceptd.listener.fd"), Some(i64::from(server.as_raw_fd())));
    assert_eq!(attempt.text("acceptd.listener.address"), Some("127.0.0.1"));
    // rustix uses accept or accept4, depending on the architecture.
    assert!(attempt.text("acceptd.accept.syscall").is_some_and(|name| name.starts_with("accept")));
    let record = &agent.inbox.wait_for_accepts(at.port(), 1)[0];
    let blocked = record.int("acceptd.accept.blocked_time_ns").expect("a blocked time");
    assert!((100_000_000..=upper).contains(&blocked), "{blocked} of {upper}");
    assert!(attempt.log.time_unix_nano < record.log.time_unix_nano);
    drop((accepted, client));
    let _ = agent.stop();
}

/// With attempts off, tier 1 records the blocked time, within the bounds that the test measured; tier 2
/// records none.
pub(super) fn blocked_time_without_attempts() {
    const WAIT: Duration = Duration::from_millis(150);
    let agent = Agent::start();
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = server.local_addr().expect("an address");
    let (send, receive) = mpsc::channel();
    let acceptor = thread::spawn(move || {
        let before = Instant::now();
        send.send(gettid()).expect("the test thread receives");
        let accepted = accept(&server).expect("a connection");
        (before.elapsed(), accepted, server)
    });
    until_in_accept(receive.recv().expect("the thread's id"));
    let in_accept = Instant::now();
    thread::sleep(WAIT);
    let lower = in_accept.elapsed();
    let _client = TcpStream::connect(at).expect("the listener is up");
    let (upper, accepted, server) = acceptor.join().expect("the acceptor thread");
    let record = &agent.inbox.wait_for_accepts(at.port(), 1)[0];
    let blocked = record.nanos("acceptd.accept.blocked_time_ns");
    match record.tier() {
        Tier::One => {
            let blocked = blocked.expect("a blocked time");
            assert!(lower <= blocked && blocked <= upper, "{lower:?} <= {blocked:?} <= {upper:?}");
        }
        Tier::Two => assert_eq!(blocked, None, "{record:?}"),
    }
    assert!(agent.inbox.events(ATTEMPT, |_| true).is_empty(), "{ATTEMPT} is off");
    drop((accepted, server));
    let _ = agent.stop();
}

/// A listen through io_uring (since Linux 6.11) is recorded, without the arguments that the request does not
/// keep.
pub(super) fn through_a_ring() {
    let agent = Agent::start();
    let server = tcp();
    let mut ring = uring::new(8);
    bind(&server, &any_port()).expect("a free port");
    uring::submit(&mut ring, &opcode::Listen::new(types::Fd(server.as_raw_fd()), 9).build());
    assert_eq!(uring::completion(&mut ring).result(), 0, "the kernel listens");
    let listens = event_on(&agent, LISTEN, &server);
    assert_eq!(listens.int("acceptd.listener.backlog_limit"), Some(9));
    for absent in ["acceptd.listener.fd", "acceptd.listener.backlog_requested"] {
        assert_eq!(listens.attributes.get(absent), None, "{absent}: the request does not keep it");
    }
    let _ = agent.stop();
}

/// An accept attempt through io_uring is reported; the accept's record has no blocked time, since no thread
/// was blocked.
pub(super) fn attempt_through_a_ring() {
    let agent = Agent::with_flags(&["--set", "events.accept_attempt=true"]);
    let server = tcp();
    let mut ring = uring::new(8);
    bind(&server, &any_port()).expect("a free port");
    listen(&server, 9).expect("bound");
    let request =
        opcode::Accept::new(types::Fd(server.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &request.build());
    let _client = TcpStream::connect(name_of(&server)).expect("the listener is up");
    drop(uring::descriptor(&mut ring));
    let attempt = event_on(&agent, ATTEMPT, &server);
    assert_eq!(attempt.text("acceptd.accept.syscall"), Some("io_uring"));
    // Tier 1's hook has the socket only, not the descriptor.
    let fd = (tier() == Tier::Two).then_some(i64::from(server.as_raw_fd()));
    assert_eq!(attempt.int("acceptd.listener.fd"), fd);
    let port = name_of(&server).port();
    let accepted = agent.inbox.wait_for_events(ACCEPT, 1, |record| record.is_on_port(port));
    assert_eq!(accepted[0].attributes.get("acceptd.accept.blocked_time_ns"), None);
    let _ = agent.stop();
}
