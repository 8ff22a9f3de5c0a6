//! The calls beside accept.

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

use super::until_in_accept;
use crate::{
    agent::{ACCEPT, Agent, tier},
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

/// An event of this process on this socket; listeners and others have names of their own.
fn of(agent: &Agent, event: &str, socket: &OwnedFd) -> Record {
    let inode = inode(socket);
    let is_of = |record: &Record| {
        record.int("acceptd.socket.inode").or_else(|| record.int("acceptd.listener.inode")) == inode
    };
    let record = agent.inbox.of_event(event, 1, is_of).remove(0);
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

/// By default listen and bind are told, the others not.
pub(super) fn bind_and_listen() {
    let agent = Agent::start();
    let server = tcp();
    bind(&server, &any_port()).expect("a free port");
    listen(&server, 33).expect("bound");
    let at = name_of(&server);
    let bound = of(&agent, BIND, &server);
    assert_eq!(bound.endpoint("local"), Some((at.ip(), at.port())));
    assert_eq!(bound.int("acceptd.socket.fd"), Some(i64::from(server.as_raw_fd())));
    assert_eq!(bound.text("acceptd.socket.type"), Some("stream"));
    assert_eq!((bound.text("network.transport"), bound.text("network.type")), (Some("tcp"), Some("ipv4")));
    assert_eq!((bound.text("error.type"), bound.log.severity_number), (None, 9));
    let listens = of(&agent, LISTEN, &server);
    assert_eq!(listens.text("acceptd.listener.address"), Some("127.0.0.1"));
    assert_eq!(listens.int("acceptd.listener.port"), Some(i64::from(at.port())));
    assert_eq!(listens.int("acceptd.listener.backlog_requested"), Some(33));
    assert_eq!(listens.int("acceptd.listener.backlog_limit"), Some(33));
    assert_eq!(listens.int("acceptd.listener.fd"), Some(i64::from(server.as_raw_fd())));
    let cookie = rustix::net::sockopt::socket_cookie(&server).expect("SO_COOKIE").to_string();
    assert_eq!(listens.text("acceptd.listener.cookie"), Some(cookie.as_str()));
    for event in [CREATE, ATTEMPT] {
        assert!(agent.inbox.found(event, |_| true).is_empty(), "{event} is off");
    }
    let _ = agent.stop();
}

pub(super) fn switched_off() {
    let agent = Agent::with(&["--set", "events.listen=false", "--set", "events.bind=false"]);
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = server.local_addr().expect("an address");
    let _client = TcpStream::connect(at).expect("somebody listens");
    server.accept().expect("a connection");
    assert_eq!(agent.inbox.of_port(at.port(), 1).len(), 1);
    assert!(agent.inbox.found(LISTEN, |_| true).is_empty() && agent.inbox.found(BIND, |_| true).is_empty());
    let ledger = agent.stop();
    assert!(
        ledger["capture"]["bookkeeping"].as_u64() >= Some(1),
        "the agent still knows listeners: {ledger}"
    );
}

/// What did not work says what was asked for.
pub(super) fn a_bind_that_fails() {
    let agent = Agent::start();
    let (first, second) = (tcp(), tcp());
    bind(&first, &any_port()).expect("a free port");
    listen(&first, 1).expect("bound");
    let at = name_of(&first);
    assert_eq!(bind(&second, &at), Err(Errno::ADDRINUSE));
    let failed = of(&agent, BIND, &second);
    assert_eq!(failed.text("error.type"), Some("EADDRINUSE"));
    assert_eq!(failed.endpoint("local"), Some((at.ip(), at.port())), "the address that was asked for");
    assert_eq!(failed.log.severity_number, 13);

    let unix = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    let path = "/nonexistent-folder/server.sock";
    assert_eq!(bind(&unix, &SocketAddrUnix::new(path).expect("short")), Err(Errno::NOENT));
    let failed = of(&agent, BIND, &unix);
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

/// Sockets that can be accepted on, and no others.
pub(super) fn create() {
    let agent = Agent::with(&["--set", "events.create=true"]);
    let datagrams = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
    let created = socket(AddressFamily::INET6, SocketType::STREAM, None).expect("a socket");
    let record = of(&agent, CREATE, &created);
    assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(created.as_raw_fd())));
    assert_eq!((record.text("network.transport"), record.text("network.type")), (Some("tcp"), Some("ipv6")));
    let datagrams = inode(&datagrams);
    let others = agent.inbox.found(CREATE, |record| record.int("acceptd.socket.inode") == datagrams);
    assert!(others.is_empty(), "{others:?}");
    let _ = agent.stop();
}

/// An attempt is told before its outcome, and the accept then says how long the thread sat in the call.
pub(super) fn attempt_and_blocked_time() {
    const WAIT: Duration = Duration::from_millis(150);
    let agent = Agent::with(&["--set", "events.accept_attempt=true"]);
    let server = tcp();
    bind(&server, &any_port()).expect("a free port");
    listen(&server, 8).expect("bound");
    let at = name_of(&server);
    let client = thread::spawn(move || {
        thread::sleep(WAIT);
        TcpStream::connect(at).expect("somebody listens")
    });
    let before = Instant::now();
    let accepted = accept(&server).expect("a connection");
    let upper = i64::try_from(before.elapsed().as_nanos()).expect("short");
    let attempt = of(&agent, ATTEMPT, &server);
    assert_eq!(attempt.int("acceptd.listener.fd"), Some(i64::from(server.as_raw_fd())));
    assert_eq!(attempt.text("acceptd.listener.address"), Some("127.0.0.1"));
    // rustix calls accept for no flags, and accept4 on some architectures.
    assert!(attempt.text("acceptd.accept.syscall").is_some_and(|name| name.starts_with("accept")));
    let record = &agent.inbox.of_port(at.port(), 1)[0];
    let blocked = record.int("acceptd.accept.blocked_time_ns").expect("its begin was seen");
    assert!((100_000_000..=upper).contains(&blocked), "{blocked} of {upper}");
    assert!(attempt.log.time_unix_nano < record.log.time_unix_nano);
    drop((accepted, client));
    let _ = agent.stop();
}

/// Tier 1 knows how long a thread sat in the call without being asked for attempts; tier 2 does not.
pub(super) fn blocked_time_without_attempts() {
    const WAIT: Duration = Duration::from_millis(150);
    let agent = Agent::start();
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = server.local_addr().expect("an address");
    let (send, receive) = mpsc::channel();
    let acceptor = thread::spawn(move || {
        let before = Instant::now();
        send.send(gettid()).expect("the test waits");
        let accepted = accept(&server).expect("a connection");
        (before.elapsed(), accepted, server)
    });
    until_in_accept(receive.recv().expect("the thread says"));
    let in_accept = Instant::now();
    thread::sleep(WAIT);
    let lower = in_accept.elapsed();
    let _client = TcpStream::connect(at).expect("somebody listens");
    let (upper, accepted, server) = acceptor.join().expect("it accepts");
    let record = &agent.inbox.of_port(at.port(), 1)[0];
    let blocked = record.nanos("acceptd.accept.blocked_time_ns");
    match record.tier() {
        Tier::One => {
            let blocked = blocked.expect("its begin was seen");
            assert!(lower <= blocked && blocked <= upper, "{lower:?} <= {blocked:?} <= {upper:?}");
        }
        Tier::Two => assert_eq!(blocked, None, "{record:?}"),
    }
    assert!(agent.inbox.found(ATTEMPT, |_| true).is_empty(), "{ATTEMPT} is off");
    drop((accepted, server));
    let _ = agent.stop();
}

/// io_uring can listen since 6.11.
pub(super) fn through_a_ring() {
    let agent = Agent::start();
    let server = tcp();
    let mut ring = uring::new(8);
    bind(&server, &any_port()).expect("a free port");
    uring::submit(&mut ring, &opcode::Listen::new(types::Fd(server.as_raw_fd()), 9).build());
    assert_eq!(uring::completion(&mut ring).result(), 0, "the kernel listens");
    let listens = of(&agent, LISTEN, &server);
    assert_eq!(listens.int("acceptd.listener.backlog_limit"), Some(9));
    for absent in ["acceptd.listener.fd", "acceptd.listener.backlog_requested"] {
        assert_eq!(listens.attributes.get(absent), None, "{absent}: the request does not keep it");
    }
    let _ = agent.stop();
}

pub(super) fn attempt_through_a_ring() {
    let agent = Agent::with(&["--set", "events.accept_attempt=true"]);
    let server = tcp();
    let mut ring = uring::new(8);
    bind(&server, &any_port()).expect("a free port");
    listen(&server, 9).expect("bound");
    let request =
        opcode::Accept::new(types::Fd(server.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &request.build());
    let _client = TcpStream::connect(name_of(&server)).expect("somebody listens");
    drop(uring::descriptor(&mut ring));
    let attempt = of(&agent, ATTEMPT, &server);
    assert_eq!(attempt.text("acceptd.accept.syscall"), Some("io_uring"));
    // Tier 1 looks where only the socket is known.
    let fd = (tier() == Tier::Two).then_some(i64::from(server.as_raw_fd()));
    assert_eq!(attempt.int("acceptd.listener.fd"), fd);
    let port = name_of(&server).port();
    let accepted = agent.inbox.of_event(ACCEPT, 1, |record| record.is_of_port(port));
    assert_eq!(accepted[0].attributes.get("acceptd.accept.blocked_time_ns"), None);
    let _ = agent.stop();
}
