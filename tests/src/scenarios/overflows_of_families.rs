//! Full accept queues of families that are modules of the kernel: each connect that is refused is reported in
//! both tiers, also when the module was loaded after the agent started.

use std::{net::SocketAddr, os::fd::OwnedFd, path::Path, process::Command};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, accept, bind, connect, getsockname, listen, socket},
};

use super::overflows::reported::{LISTEN, OVERFLOW, inode, reported, watching};
use crate::{agent::Agent, raw, record::Record, wait};

/// The limit of each listener's queue, which is full with one connection more.
const LIMIT: i32 = 2;

const REFUSED: u64 = 20;

/// VSOCK's address of the loopback.
const LOCAL: u32 = 1;
const ANY_PORT: u32 = u32::MAX;

fn sctp_listener() -> (OwnedFd, SocketAddr) {
    let listener = raw::sctp_socket().expect("SCTP");
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    listen(&listener, LIMIT).expect("bound");
    let at = SocketAddr::try_from(getsockname(&listener).expect("bound")).expect("an internet address");
    (listener, at)
}

/// Connects to the listener at `at`. Returns the client, or `None` if it was refused.
fn sctp_connect(at: SocketAddr) -> Option<OwnedFd> {
    let client = raw::sctp_socket().expect("SCTP");
    match connect(&client, &at) {
        Ok(()) => Some(client),
        Err(Errno::CONNREFUSED) => None,
        Err(error) => panic!("the connect ended with {error}"),
    }
}

/// A VSOCK listener on the loopback, and its port.
fn vsock_listener(socket_type: SocketType) -> (OwnedFd, u32) {
    let listener = socket(AddressFamily::VSOCK, socket_type, None).expect("VSOCK");
    bind(&listener, &raw::vsock_address(LOCAL, ANY_PORT)).expect("a free port");
    listen(&listener, LIMIT).expect("bound");
    let (_, port) = raw::vsock_parts(&getsockname(&listener).expect("bound"));
    (listener, port)
}

/// Connects to the VSOCK listener at `port`. Returns the client, or `None` if it was refused.
fn vsock_connect(socket_type: SocketType, port: u32) -> Option<OwnedFd> {
    let client = socket(AddressFamily::VSOCK, socket_type, None).expect("VSOCK");
    match connect(&client, &raw::vsock_address(LOCAL, port)) {
        Ok(()) => Some(client),
        Err(Errno::CONNRESET) => None,
        Err(error) => panic!("the connect ended with {error}"),
    }
}

/// Connects to a listener until its queue is full, which takes one connection more than its limit, and then
/// `REFUSED` times more, each of which is refused and reported. Without a full queue, nothing is reported:
/// neither what `connect` does then, nor what `unrelated` does while the queue is full.
fn check_refused(
    agent: Agent,
    transport: &str,
    listener: OwnedFd,
    connect: impl Fn() -> Option<OwnedFd>,
    unrelated: impl Fn(),
) {
    let inode = inode(&listener);
    let matches = |record: &Record| record.int("acceptd.listener.inode") == inode;
    let _ = agent.inbox.wait_for_events(LISTEN, 1, matches);
    let queued: Vec<_> = (0..=LIMIT).map(|_| connect().expect("room in the queue")).collect();
    unrelated();
    let refused = (0..REFUSED).filter(|_| connect().is_none()).count() as u64;
    assert_eq!(refused, REFUSED);
    for _ in &queued {
        drop(accept(&listener).expect("a connection"));
    }
    // The queue has room again: these are none.
    let more: Vec<_> = (0..=LIMIT).map(|_| connect().expect("room in the queue")).collect();
    wait::until_ok(|| {
        let reported = reported(&agent.inbox, matches);
        if reported >= refused { Ok(()) } else { Err(format!("{reported} of {refused} are reported")) }
    });
    let inbox = agent.inbox.clone();
    drop((queued, more, listener));
    let _ = agent.stop();
    let records = inbox.events(OVERFLOW, matches);
    assert_eq!(reported(&inbox, matches), refused);
    assert_eq!(records[0].text("network.transport"), Some(transport));
    assert_eq!(records[0].int("acceptd.listener.backlog_limit"), Some(i64::from(LIMIT)));
    assert_eq!(records[0].resource_int("process.pid"), Some(i64::from(std::process::id())));
}

/// Connects to an SCTP listener whose queue is full.
pub(super) fn refused_by_an_sctp_socket() {
    let agent = watching(&[]);
    let (listener, at) = sctp_listener();
    check_refused(agent, "sctp", listener, || sctp_connect(at), || {});
}

/// Connects to a VSOCK listener whose queue is full. Connects that are reset for another reason are not
/// reported: no socket has the address, or the socket there has another type.
pub(super) fn refused_by_a_vsock_socket() {
    let agent = watching(&[]);
    let (listener, port) = vsock_listener(SocketType::STREAM);
    let (_, unused) = vsock_listener(SocketType::STREAM);
    let unrelated = || {
        assert!(vsock_connect(SocketType::STREAM, unused).is_none(), "the listener is closed");
        assert!(vsock_connect(SocketType::SEQPACKET, port).is_none(), "the listener has another type");
    };
    check_refused(agent, "vsock", listener, || vsock_connect(SocketType::STREAM, port), unrelated);
    // The kernel compares the type of the listener, too.
    let agent = watching(&[]);
    let (listener, port) = vsock_listener(SocketType::SEQPACKET);
    check_refused(agent, "vsock", listener, || vsock_connect(SocketType::SEQPACKET, port), || {});
}

/// The kernel loads the module after the agent started: from the next survey on, each refused connect is
/// reported once.
pub(super) fn refused_after_the_module_was_loaded() {
    let agent = watching(&[]);
    assert!(!Path::new("/sys/module/sctp").exists(), "the guest starts without SCTP");
    let insmod = Command::new("insmod").arg("/modules/sctp.ko").status();
    assert!(insmod.expect("the guest has the program").success());
    let (listener, at) = sctp_listener();
    let inode = inode(&listener);
    let matches = |record: &Record| record.int("acceptd.listener.inode") == inode;
    let queued: Vec<_> = (0..=LIMIT).map(|_| sctp_connect(at).expect("room in the queue")).collect();
    // Connects that are refused before the next survey are not known.
    let mut early = 0;
    wait::until("the first report", || {
        early += u64::from(sctp_connect(at).is_none());
        (reported(&agent.inbox, matches) > 0).then_some(())
    });
    let refused = (0..REFUSED).filter(|_| sctp_connect(at).is_none()).count() as u64;
    assert_eq!(refused, REFUSED);
    wait::until("every refused connect", || (reported(&agent.inbox, matches) > REFUSED).then_some(()));
    let inbox = agent.inbox.clone();
    drop((queued, listener));
    let _ = agent.stop();
    let reported = reported(&inbox, matches);
    assert!((REFUSED + 1..=REFUSED + early).contains(&reported), "{reported} of {REFUSED} and {early}");
}
