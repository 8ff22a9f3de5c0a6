//! Families beside TCP: UNIX sockets with every kind of name, and VSOCK.

use std::{
    net::SocketAddr,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream},
    },
    thread,
    time::{Duration, Instant},
};

use acceptd::{bpf::Tier, mapping::presence::Case};
use rustix::{
    fs::fstat,
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, accept_with, bind, connect,
        getpeername, getsockname, ipproto, listen, socket, socket_with, sockopt::socket_cookie,
    },
    process::getpid,
};

use super::{assert_fields, shown};
use crate::{
    agent::{ACCEPT, Agent},
    raw,
    record::Record,
};

/// The record of the accept that made this descriptor.
fn record_of(agent: &Agent, accepted: &OwnedFd) -> Record {
    let inode = i64::try_from(fstat(accepted).expect("fstat").st_ino).ok();
    let is_of = |record: &Record| record.int("acceptd.socket.inode") == inode;
    agent.inbox.of_event(ACCEPT, 1, is_of).remove(0)
}

/// What is the same for every accept on a UNIX socket, against what fstat(2) and this process know.
fn assert_tells_unix(record: &Record, accepted: &OwnedFd, listener: &OwnedFd) {
    let inode = |fd: &OwnedFd| i64::try_from(fstat(fd).expect("fstat").st_ino).ok();
    assert_eq!(record.text("network.transport"), Some("unix"), "{record:?}");
    assert_eq!(record.resource_int("process.pid"), Some(i64::from(getpid().as_raw_nonzero().get())));
    assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(accepted.as_raw_fd())));
    assert_eq!(record.int("acceptd.listener.fd"), Some(i64::from(listener.as_raw_fd())));
    assert_eq!(record.int("acceptd.socket.inode"), inode(accepted));
    assert_eq!(record.int("acceptd.listener.inode"), inode(listener));
    assert_fields(record, Case::Unix);
    assert_eq!((record.log.trace_id.len(), record.log.severity_number), (16, 9));
    let (of_accepted, of_listener) =
        (socket_cookie(accepted).expect("SO_COOKIE"), socket_cookie(listener).expect("SO_COOKIE"));
    match record.tier() {
        Tier::One => {
            let shown = |key| record.text(key).map(str::to_owned);
            assert_eq!(shown("acceptd.socket.cookie"), Some(of_accepted.to_string()));
            assert_eq!(shown("acceptd.listener.cookie"), Some(of_listener.to_string()));
            assert!(record.int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
        }
        Tier::Two => {
            assert_eq!(record.bool("acceptd.accept.verified"), Some(false), "no cookie proves it");
        }
    }
}

pub(super) fn unix_by_path() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).expect("a new path"));
    let peer_path = folder.path().join("client.sock");
    let client = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    bind(&client, &SocketAddrUnix::new(&peer_path).expect("a short path")).expect("a new path");
    let second = UnixStream::connect(&path);
    connect(&client, &SocketAddrUnix::new(&path).expect("a short path")).expect("somebody listens");
    let unnamed = accept(&listener).expect("a connection");
    let named = accept(&listener).expect("a connection");
    let path = path.to_string_lossy().into_owned();
    for (accepted, left, peer) in
        [(&unnamed, 1, None), (&named, 0, Some(peer_path.to_string_lossy().into_owned()))]
    {
        let record = record_of(&agent, accepted);
        assert_eq!(record.text("network.local.address"), Some(path.as_str()));
        assert_eq!(record.text("acceptd.listener.address"), Some(path.as_str()));
        assert_eq!(record.text("network.peer.address"), peer.as_deref());
        assert_eq!(record.int("acceptd.listener.backlog_length"), Some(left), "after the dequeue");
        assert_tells_unix(&record, accepted, &listener);
    }
    drop((client, second));
    let _ = agent.stop();
}

pub(super) fn unix_abstract_with_nul_inside() {
    let agent = Agent::start();
    let name = [&b"acceptd\0"[..], &std::process::id().to_ne_bytes(), b"\0\\\x1b]0;x\x07\xff\0"].concat();
    let address = UnixAddress::from_abstract_name(&name).expect("a short name");
    let listener = OwnedFd::from(UnixListener::bind_addr(&address).expect("a new name"));
    let _client = UnixStream::connect_addr(&address).expect("somebody listens");
    let accepted = accept_with(&listener, SocketFlags::CLOEXEC).expect("a connection");
    let record = record_of(&agent, &accepted);
    // `@` stands for the NUL that makes a name abstract; every other byte is there, and harmless.
    let shown = format!("@{}", acceptd_otlp::text::escape(&name, 1024));
    assert!(
        shown.starts_with("@acceptd\\x00") && shown.ends_with("\\x00\\\\\\x1b]0;x\\x07\\xff\\x00"),
        "{shown}"
    );
    assert_eq!(record.text("network.local.address"), Some(shown.as_str()));
    assert_tells_unix(&record, &accepted, &listener);
    let _ = agent.stop();
}

pub(super) fn unix_unnamed_listener() {
    let agent = Agent::start();
    // A listener needs no name: a pair of file descriptors is never connected to, so this one is autobound by listen.
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    assert_eq!(listen(&listener, 1), Err(Errno::INVAL), "a UNIX listener has a name");
    assert_eq!(accept(&listener).expect_err("it does not listen"), Errno::INVAL);
    let inode = i64::try_from(fstat(&listener).expect("fstat").st_ino).ok();
    let failed = agent.inbox.of_event(ACCEPT, 1, |record| record.int("acceptd.listener.inode") == inode);
    assert_eq!(failed[0].text("error.type"), Some("EINVAL"));
    assert_eq!(failed[0].text("network.transport"), Some("unix"));
    assert_fields(&failed[0], Case::UnixFailed);
    assert_eq!(failed[0].attributes.get("acceptd.listener.address"), None);
    let _ = agent.stop();
}

pub(super) fn unix_seqpacket() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    // As long as a path can be: 107 bytes and a NUL.
    let start = folder.path().to_string_lossy().into_owned();
    let path = format!("{start}/{}", "x".repeat(107 - start.len() - 1));
    let address = SocketAddrUnix::new(path.as_str()).expect("it just fits");
    let packets = || {
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket")
    };
    let (listener, client) = (packets(), packets());
    bind(&listener, &address).expect("a new path");
    listen(&listener, 7).expect("bound");
    connect(&client, &address).expect("somebody listens");
    let accepted = accept(&listener).expect("a connection");
    let record = record_of(&agent, &accepted);
    assert_eq!(record.text("network.local.address"), Some(path.as_str()));
    assert_eq!(record.int("acceptd.listener.backlog_limit"), Some(7));
    assert_tells_unix(&record, &accepted, &listener);
    let _ = agent.stop();
}

/// Tier 1 sees the client connect; tier 2 does not know since when a connection waits.
pub(super) fn unix_queue_time() {
    const WAIT: Duration = Duration::from_millis(200);
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).expect("a new path"));
    let before = Instant::now();
    let _clients = [0, 1].map(|_| UnixStream::connect(&path).expect("somebody listens"));
    let connected = Instant::now();
    thread::sleep(WAIT);
    let lower = connected.elapsed();
    let accepted = [0, 1].map(|_| accept(&listener).expect("queued"));
    let upper = before.elapsed();
    for accepted in &accepted {
        let record = record_of(&agent, accepted);
        assert_tells_unix(&record, accepted, &listener);
        let queued = record.nanos("acceptd.accept.queue_time_ns");
        match record.tier() {
            Tier::One => {
                let queued = queued.expect("a queue time");
                assert!(lower <= queued && queued <= upper, "{lower:?} <= {queued:?} <= {upper:?}");
            }
            Tier::Two => assert_eq!(queued, None, "unknown, not 0"),
        }
    }
    let _ = agent.stop();
}

/// This kernel has VSOCK, and no transport that leads back to itself: what a listener fails with is seen.
pub(super) fn vsock_failure() {
    let agent = Agent::start();
    let Ok(listener) = socket(AddressFamily::VSOCK, SocketType::STREAM, None) else {
        panic!("this kernel has no VSOCK; the scenario needs CONFIG_VSOCKETS=y or the module");
    };
    assert_eq!(accept(&listener).expect_err("it does not listen"), Errno::INVAL);
    let inode = i64::try_from(fstat(&listener).expect("fstat").st_ino).ok();
    let failed = agent.inbox.of_event(ACCEPT, 1, |record| record.int("acceptd.listener.inode") == inode);
    assert_eq!(failed[0].text("network.transport"), Some("vsock"));
    assert_eq!(failed[0].text("error.type"), Some("EINVAL"));
    assert_eq!(failed[0].attributes.get("network.type"), None);
    // It is not bound.
    for absent in ["acceptd.listener.address", "acceptd.listener.port"] {
        assert_eq!(failed[0].attributes.get(absent), None, "{absent}");
    }
    let _ = agent.stop();
}

/// `VMADDR_CID_LOCAL` and `VMADDR_PORT_ANY`, `include/uapi/linux/vm_sockets.h`
const LOCAL: u32 = 1;
const ANY_PORT: u32 = u32::MAX;

pub(super) fn vsock_loopback() {
    let agent = Agent::start();
    let stream = || socket(AddressFamily::VSOCK, SocketType::STREAM, None).expect("VSOCK");
    let (listener, client) = (stream(), stream());
    bind(&listener, &raw::vsock(LOCAL, ANY_PORT)).expect("a free port");
    listen(&listener, 5).expect("bound");
    let at = raw::of_vsock(&getsockname(&listener).expect("bound"));
    connect(&client, &raw::vsock(LOCAL, at.1)).expect("somebody listens");
    let accepted = accept(&listener).expect("a connection");
    let local = raw::of_vsock(&getsockname(&accepted).expect("connected"));
    let peer = raw::of_vsock(&getpeername(&accepted).expect("connected").expect("a peer"));
    assert_eq!((local.0, local.1), (LOCAL, at.1));
    let record = record_of(&agent, &accepted);
    assert_eq!(record.text("network.transport"), Some("vsock"), "{record:?}");
    for (side, (cid, port)) in [("network.local", local), ("network.peer", peer), ("acceptd.listener", at)] {
        let shown = (record.text(&format!("{side}.address")), record.int(&format!("{side}.port")));
        assert_eq!(shown, (Some(cid.to_string().as_str()), Some(i64::from(port))), "{side}: {record:?}");
    }
    assert_eq!(record.attributes.get("network.type"), None, "{record:?}");
    assert_no_tcp(&record);
    let _ = agent.stop();
}

/// A socket of SCTP that is used as one of TCP is.
pub(super) fn sctp_socket() -> rustix::io::Result<OwnedFd> {
    socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP))
}

pub(super) fn sctp() {
    let agent = Agent::start();
    let [listener, client] = [0, 1].map(|_| sctp_socket().expect("SCTP"));
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&listener, 5).expect("bound");
    let at = SocketAddr::try_from(getsockname(&listener).expect("bound")).expect("an internet address");
    connect(&client, &at).expect("somebody listens");
    let accepted = accept(&listener).expect("a connection");
    let local =
        SocketAddr::try_from(getsockname(&accepted).expect("connected")).expect("an internet address");
    let peer = getpeername(&accepted).expect("connected").expect("a peer");
    let peer = SocketAddr::try_from(peer).expect("an internet address");
    let record = record_of(&agent, &accepted);
    assert_eq!(record.text("network.transport"), Some("sctp"), "{record:?}");
    assert_eq!(record.text("network.type"), Some("ipv4"), "{record:?}");
    assert_eq!(record.endpoint("local"), Some(shown(local)), "{record:?}");
    assert_eq!(record.endpoint("peer"), Some(shown(peer)), "{record:?}");
    assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(at.port())), "{record:?}");
    assert_no_tcp(&record);
    let _ = agent.stop();
}

/// What only TCP has; and tier 1 knows the socket that `do_accept` returned, while nothing proves it in tier 2.
fn assert_no_tcp(record: &Record) {
    for absent in [
        "acceptd.accept.queue_time_ns",
        "acceptd.tcp.handshake_time_ns",
        "acceptd.tcp.rtt_ns",
        "acceptd.tcp.synack_retransmits",
    ] {
        assert_eq!(record.attributes.get(absent), None, "{absent}: {record:?}");
    }
    let verified = (record.tier() == Tier::Two).then_some(false);
    assert_eq!(record.bool("acceptd.accept.verified"), verified, "{record:?}");
}
