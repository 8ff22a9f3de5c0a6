//! Address families other than TCP: UNIX sockets with every kind of name, VSOCK, SCTP, SMC with fallback to
//! TCP, and families that are only counted.

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
        getpeername, getsockname, listen, socket, socket_with, sockopt::socket_cookie,
    },
    process::getpid,
};

use super::support::{assert_presence, canonical};
use crate::{agent::Agent, inbox::ACCEPT, raw, record::Record};

/// The accept record with the inode of this accepted socket.
fn record_of(agent: &Agent, accepted: &OwnedFd) -> Record {
    let inode = i64::try_from(fstat(accepted).expect("fstat").st_ino).ok();
    let matches = |record: &Record| record.int("acceptd.socket.inode") == inode;
    agent.inbox.wait_for_events(ACCEPT, 1, matches).remove(0)
}

/// Checks what every accept on a UNIX socket has in common, against fstat(2), `SO_COOKIE` and this process's
/// own ids.
fn assert_unix_accept_matches(record: &Record, accepted: &OwnedFd, listener: &OwnedFd) {
    let inode = |fd: &OwnedFd| i64::try_from(fstat(fd).expect("fstat").st_ino).ok();
    assert_eq!(record.text("network.transport"), Some("unix"), "{record:?}");
    assert_eq!(record.resource_int("process.pid"), Some(i64::from(getpid().as_raw_nonzero().get())));
    assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(accepted.as_raw_fd())));
    assert_eq!(record.int("acceptd.listener.fd"), Some(i64::from(listener.as_raw_fd())));
    assert_eq!(record.int("acceptd.socket.inode"), inode(accepted));
    assert_eq!(record.int("acceptd.listener.inode"), inode(listener));
    assert_presence(record, Case::Unix);
    assert_eq!((record.log.trace_id.len(), record.log.severity_number), (0, 9), "no spans are sent");
    let (accepted_cookie, listener_cookie) =
        (socket_cookie(accepted).expect("SO_COOKIE"), socket_cookie(listener).expect("SO_COOKIE"));
    match record.tier() {
        Tier::One => {
            let text = |key| record.text(key).map(str::to_owned);
            assert_eq!(text("acceptd.socket.cookie"), Some(accepted_cookie.to_string()));
            assert_eq!(text("acceptd.listener.cookie"), Some(listener_cookie.to_string()));
            assert!(record.int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
        }
        Tier::Two => {
            assert_eq!(
                record.bool("acceptd.accept.verified"),
                Some(false),
                "tier 2 has no cookie to verify it by"
            );
        }
    }
}

/// A listener with a path, and clients with and without one: the record has both paths, and the number of
/// connections that still wait.
pub(super) fn unix_by_path() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).expect("an unused path"));
    let peer_path = folder.path().join("client.sock");
    let client = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    bind(&client, &SocketAddrUnix::new(&peer_path).expect("a path that fits sun_path"))
        .expect("an unused path");
    let second = UnixStream::connect(&path);
    connect(&client, &SocketAddrUnix::new(&path).expect("a path that fits sun_path"))
        .expect("the listener is up");
    let unnamed = accept(&listener).expect("a connection");
    let named = accept(&listener).expect("a connection");
    let path = path.to_string_lossy().into_owned();
    for (accepted, waiting, peer) in
        [(&unnamed, 1, None), (&named, 0, Some(peer_path.to_string_lossy().into_owned()))]
    {
        let record = record_of(&agent, accepted);
        assert_eq!(record.text("network.local.address"), Some(path.as_str()));
        assert_eq!(record.text("acceptd.listener.address"), Some(path.as_str()));
        assert_eq!(record.text("network.peer.address"), peer.as_deref());
        assert_eq!(record.int("acceptd.listener.backlog_length"), Some(waiting), "after the dequeue");
        assert_unix_accept_matches(&record, accepted, &listener);
    }
    drop((client, second));
    let _ = agent.stop();
}

/// An abstract name with NUL and control bytes is recorded completely and escaped.
pub(super) fn unix_abstract_with_nul_inside() {
    let agent = Agent::start();
    let name = [&b"acceptd\0"[..], &std::process::id().to_ne_bytes(), b"\0\\\x1b]0;x\x07\xff\0"].concat();
    let address = UnixAddress::from_abstract_name(&name).expect("a name that fits sun_path");
    let listener = OwnedFd::from(UnixListener::bind_addr(&address).expect("a new name"));
    let _client = UnixStream::connect_addr(&address).expect("the listener is up");
    let accepted = accept_with(&listener, SocketFlags::CLOEXEC).expect("a connection");
    let record = record_of(&agent, &accepted);
    // `@` replaces the leading NUL of an abstract name; all other bytes are kept, escaped where not
    // printable.
    let shown = format!("@{}", acceptd_otlp::text::escape(&name, 1024));
    assert!(
        shown.starts_with("@acceptd\\x00") && shown.ends_with("\\x00\\\\\\x1b]0;x\\x07\\xff\\x00"),
        "{shown}"
    );
    assert_eq!(record.text("network.local.address"), Some(shown.as_str()));
    assert_unix_accept_matches(&record, &accepted, &listener);
    let _ = agent.stop();
}

/// A failed accept on an unnamed UNIX socket is recorded without a listener address.
pub(super) fn unix_unnamed_listener() {
    let agent = Agent::start();
    // listen(2) refuses a UNIX socket without a name, so an unnamed one can only fail to accept.
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    assert_eq!(listen(&listener, 1), Err(Errno::INVAL), "a UNIX listener needs a name");
    assert_eq!(accept(&listener).expect_err("not a listener"), Errno::INVAL);
    let inode = i64::try_from(fstat(&listener).expect("fstat").st_ino).ok();
    let failed =
        agent.inbox.wait_for_events(ACCEPT, 1, |record| record.int("acceptd.listener.inode") == inode);
    assert_eq!(failed[0].text("error.type"), Some("EINVAL"));
    assert_eq!(failed[0].text("network.transport"), Some("unix"));
    assert_presence(&failed[0], Case::UnixFailed);
    assert_eq!(failed[0].attributes.get("acceptd.listener.address"), None);
    let _ = agent.stop();
}

/// A `SOCK_SEQPACKET` listener with a path of the maximum length is recorded with the complete path.
pub(super) fn unix_seqpacket() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The longest path that sun_path holds: 107 bytes and a NUL.
    let start = folder.path().to_string_lossy().into_owned();
    let path = format!("{start}/{}", "x".repeat(107 - start.len() - 1));
    let address = SocketAddrUnix::new(path.as_str()).expect("a path that fits sun_path");
    let packets = || {
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket")
    };
    let (listener, client) = (packets(), packets());
    bind(&listener, &address).expect("an unused path");
    listen(&listener, 7).expect("bound");
    connect(&client, &address).expect("the listener is up");
    let accepted = accept(&listener).expect("a connection");
    let record = record_of(&agent, &accepted);
    assert_eq!(record.text("network.local.address"), Some(path.as_str()));
    assert_eq!(record.int("acceptd.listener.backlog_limit"), Some(7));
    assert_unix_accept_matches(&record, &accepted, &listener);
    let _ = agent.stop();
}

/// In tier 1 the queue time of a UNIX connection lies between the bounds that the test measures. Tier 2 does
/// not see the connect, and must record none.
pub(super) fn unix_queue_time() {
    const WAIT: Duration = Duration::from_millis(200);
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).expect("an unused path"));
    let before = Instant::now();
    let _clients = [0, 1].map(|_| UnixStream::connect(&path).expect("the listener is up"));
    let connected = Instant::now();
    thread::sleep(WAIT);
    let lower = connected.elapsed();
    let accepted = [0, 1].map(|_| accept(&listener).expect("a queued connection"));
    let upper = before.elapsed();
    for accepted in &accepted {
        let record = record_of(&agent, accepted);
        assert_unix_accept_matches(&record, accepted, &listener);
        let queued = record.nanos("acceptd.accept.queue_time_ns");
        match record.tier() {
            Tier::One => {
                let queued = queued.expect("a queue time");
                assert!(lower <= queued && queued <= upper, "{lower:?} <= {queued:?} <= {upper:?}");
            }
            Tier::Two => assert_eq!(queued, None, "absent because unknown, not 0"),
        }
    }
    let _ = agent.stop();
}

/// A failed accept on an unbound VSOCK socket is recorded. It needs no VSOCK transport.
pub(super) fn vsock_failure() {
    let agent = Agent::start();
    let Ok(listener) = socket(AddressFamily::VSOCK, SocketType::STREAM, None) else {
        panic!("this kernel has no VSOCK; the scenario needs CONFIG_VSOCKETS=y or the module");
    };
    assert_eq!(accept(&listener).expect_err("not a listener"), Errno::INVAL);
    let inode = i64::try_from(fstat(&listener).expect("fstat").st_ino).ok();
    let failed =
        agent.inbox.wait_for_events(ACCEPT, 1, |record| record.int("acceptd.listener.inode") == inode);
    assert_eq!(failed[0].text("network.transport"), Some("vsock"));
    assert_eq!(failed[0].text("error.type"), Some("EINVAL"));
    assert_eq!(failed[0].attributes.get("network.type"), None);
    // The socket is not bound.
    for absent in ["acceptd.listener.address", "acceptd.listener.port"] {
        assert_eq!(failed[0].attributes.get(absent), None, "{absent}");
    }
    let _ = agent.stop();
}

/// `VMADDR_CID_LOCAL` and `VMADDR_PORT_ANY`, `include/uapi/linux/vm_sockets.h`.
const LOCAL: u32 = 1;
const ANY_PORT: u32 = u32::MAX;

/// A VSOCK accept is recorded with context ids and ports as getsockname(2) and getpeername(2) return them.
pub(super) fn vsock_loopback() {
    let agent = Agent::start();
    let stream = || socket(AddressFamily::VSOCK, SocketType::STREAM, None).expect("VSOCK");
    let (listener, client) = (stream(), stream());
    bind(&listener, &raw::vsock_address(LOCAL, ANY_PORT)).expect("a free port");
    listen(&listener, 5).expect("bound");
    let at = raw::vsock_parts(&getsockname(&listener).expect("bound"));
    connect(&client, &raw::vsock_address(LOCAL, at.1)).expect("the listener is up");
    let accepted = accept(&listener).expect("a connection");
    let local = raw::vsock_parts(&getsockname(&accepted).expect("connected"));
    let peer = raw::vsock_parts(&getpeername(&accepted).expect("connected").expect("a peer"));
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

/// An SCTP accept is recorded with its addresses, and without TCP's attributes.
pub(super) fn sctp() {
    let agent = Agent::start();
    let [listener, client] = [0, 1].map(|_| raw::sctp_socket().expect("SCTP"));
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&listener, 5).expect("bound");
    let at = SocketAddr::try_from(getsockname(&listener).expect("bound")).expect("an internet address");
    connect(&client, &at).expect("the listener is up");
    let accepted = accept(&listener).expect("a connection");
    let local =
        SocketAddr::try_from(getsockname(&accepted).expect("connected")).expect("an internet address");
    let peer = getpeername(&accepted).expect("connected").expect("a peer");
    let peer = SocketAddr::try_from(peer).expect("an internet address");
    let record = record_of(&agent, &accepted);
    assert_eq!(record.text("network.transport"), Some("sctp"), "{record:?}");
    assert_eq!(record.text("network.type"), Some("ipv4"), "{record:?}");
    assert_eq!(record.endpoint("local"), Some(canonical(local)), "{record:?}");
    assert_eq!(record.endpoint("peer"), Some(canonical(peer)), "{record:?}");
    assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(at.port())), "{record:?}");
    assert_no_tcp(&record);
    let _ = agent.stop();
}

/// A server on an SMC socket, whose client has no SMC: the connection is recorded once, by the server and
/// with its port, although a worker of the kernel accepted it first.
pub(super) fn smc_with_fallback() {
    let agent = Agent::start();
    let listener = raw::smc_socket().expect("SMC");
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&listener, 5).expect("bound");
    let at = SocketAddr::try_from(getsockname(&listener).expect("bound")).expect("an internet address");
    for _ in 0..3 {
        let client = std::net::TcpStream::connect(at).expect("the listener is up");
        let accepted = accept(&listener).expect("a connection");
        let record = record_of(&agent, &accepted);
        assert_eq!(record.text("network.transport"), Some("tcp"), "{record:?}");
        assert_eq!(record.endpoint("local"), Some(canonical(at)), "{record:?}");
        let peer = client.local_addr().expect("connected");
        assert_eq!(record.endpoint("peer"), Some(canonical(peer)), "{record:?}");
        assert_eq!(record.resource_int("process.pid"), Some(i64::from(getpid().as_raw_nonzero().get())));
        assert_ne!(record.text("acceptd.accept.syscall"), Some("kernel"), "{record:?}");
        assert_eq!(record.text("acceptd.listener.address"), Some("127.0.0.1"), "{record:?}");
        assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(at.port())), "{record:?}");
    }
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let on_port = |record: &Record| record.is_on_port(at.port());
    assert_eq!(inbox.events(ACCEPT, on_port).len(), 3, "one record each");
    let abandoned = inbox.events("acceptd.listener.abandoned", on_port);
    assert!(abandoned.is_empty(), "every connection was accepted: {abandoned:?}");
}

/// An accept on a socket of a family without connections is counted, and is no record.
pub(super) fn a_family_without_connections_is_counted() {
    let agent = Agent::start();
    let socket = raw::alg_socket().expect("AF_ALG");
    assert_eq!(accept(&socket).expect_err("not bound to an algorithm"), Errno::INVAL);
    let inode = i64::try_from(fstat(&socket).expect("fstat").st_ino).ok();
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    assert!(ledger["capture"]["filtered"]["family"].as_u64() >= Some(1), "{ledger}");
    let same = |record: &Record| record.int("acceptd.listener.inode") == inode;
    assert!(inbox.events(ACCEPT, same).is_empty(), "it is no record");
}

/// Checks that TCP's attributes are absent, and that only tier 2, which cannot verify the socket, says so:
/// tier 1 takes it from the return value of `do_accept`.
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
