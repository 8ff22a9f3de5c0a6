//! Full queues of UNIX sockets: the overflows of a listener are the connects that its clients see refused.

use std::{os::fd::OwnedFd, thread, time::Duration};

use acceptd::bpf::Tier;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, connect, listen, socket_with,
        sockopt::{self, Timeout},
    },
};

use super::reported::{LISTEN, OVERFLOW, inode, reported, watching};
use crate::{
    agent::{Agent, tier},
    metrics::points,
    record::Record,
    wait,
};

fn unix_socket(kind: SocketType) -> OwnedFd {
    socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("a socket")
}

/// Connects to UNIX listeners whose queue is full. Each connect that the kernel refuses with `EAGAIN` is
/// reported: non-blocking ones, and those whose time is over.
pub(in crate::scenarios) fn refused_by_a_unix_socket() {
    const REFUSED: u64 = 20;
    let agent = watching(&["--set=metrics.export=true", "--set=metrics.interval=500ms"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let abstract_name = format!("{}", path.display());
    let names = [
        (SocketAddrUnix::new(&path).expect("short"), SocketType::STREAM),
        (SocketAddrUnix::new_abstract_name(abstract_name.as_bytes()).expect("short"), SocketType::SEQPACKET),
    ];
    for (name, kind) in &names {
        let listener = unix_socket(*kind);
        bind(&listener, name).expect("a free name");
        listen(&listener, 1).expect("bound");
        let inode = inode(&listener);
        let matches = |record: &Record| record.int("acceptd.listener.inode") == inode;
        let _ = agent.inbox.wait_for_events(LISTEN, 1, matches);
        // A failed connect for another reason is no refused one.
        let stranger = unix_socket(SocketType::DGRAM);
        connect(&stranger, name).expect_err("another type");
        let queued: Vec<_> = (0..2)
            .map(|_| {
                let client = unix_socket(*kind);
                connect(&client, name).expect("room in the queue");
                client
            })
            .collect();
        let mut refused = 0;
        for _ in 0..REFUSED {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = socket_with(AddressFamily::UNIX, *kind, flags, None).expect("a socket");
            refused += u64::from(connect(&client, name) == Err(Errno::AGAIN));
        }
        assert_eq!(refused, REFUSED);
        let impatient = unix_socket(*kind);
        sockopt::set_socket_timeout(&impatient, Timeout::Send, Some(Duration::from_millis(100)))
            .expect("a socket");
        assert_eq!(connect(&impatient, name), Err(Errno::AGAIN));
        refused += 1;
        wait::until_ok(|| {
            let reported = reported(&agent.inbox, matches);
            if reported >= refused { Ok(()) } else { Err(format!("{reported} of {refused} are reported")) }
        });
        let records = agent.inbox.events(OVERFLOW, matches);
        assert_eq!(reported(&agent.inbox, matches), refused);
        assert_eq!(records[0].text("network.transport"), Some("unix"));
        assert_eq!(records[0].int("acceptd.listener.backlog_limit"), Some(1));
        drop(queued);
    }
    let _ = agent.stop();
}

/// A UNIX listener at `name`.
fn listener_with_room_for_one(name: &SocketAddrUnix) -> OwnedFd {
    let listener = unix_socket(SocketType::STREAM);
    bind(&listener, name).expect("a free name");
    listen(&listener, 0).expect("bound");
    listener
}

/// A UNIX listener refuses connects and closes before the next survey: they are reported all the same.
pub(in crate::scenarios) fn refused_by_a_unix_socket_that_closed() {
    const REFUSED: u64 = 10;
    let agent = Agent::with_flags(&["--set=listener.interval=3s"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name = SocketAddrUnix::new(folder.path().join("server.sock")).expect("short");
    let listener = listener_with_room_for_one(&name);
    let inode = inode(&listener);
    let matches = |record: &Record| record.int("acceptd.listener.inode") == inode;
    let _ = agent.inbox.wait_for_events(LISTEN, 1, matches);
    let queued = unix_socket(SocketType::STREAM);
    connect(&queued, &name).expect("room in the queue");
    for _ in 0..REFUSED {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket");
        assert_eq!(connect(&client, &name), Err(Errno::AGAIN));
    }
    drop(listener);
    wait::until("every refused connect", || (reported(&agent.inbox, matches) == REFUSED).then_some(()));
    let _ = agent.stop();
}

/// A connect to a UNIX socket that waits until the queue has room is no refused one. Tier 1 counts it, and
/// how long it waited.
pub(in crate::scenarios) fn waiting_for_a_unix_socket() {
    const FILE: &str = "/has-no-room.sock";
    const WAIT: Duration = Duration::from_millis(300);
    let agent = watching(&["--set=metrics.export=true", "--set=metrics.interval=500ms"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name = SocketAddrUnix::new(format!("{}{FILE}", folder.path().display())).expect("short");
    let listener = listener_with_room_for_one(&name);
    let inode = inode(&listener);
    let matches = |record: &Record| record.int("acceptd.listener.inode") == inode;
    let _ = agent.inbox.wait_for_events(LISTEN, 1, matches);
    thread::scope(|scope| {
        let first = unix_socket(SocketType::STREAM);
        connect(&first, &name).expect("room in the queue");
        let waiting = scope.spawn(|| {
            let client = unix_socket(SocketType::STREAM);
            connect(&client, &name).expect("room after a while");
            client
        });
        thread::sleep(WAIT);
        let one = accept(&listener).expect("a connection");
        let client = waiting.join().expect("a client");
        let two = accept(&listener).expect("a connection");
        drop((one, two, client));
    });
    let value = |name: &str| {
        let last = agent.inbox.last_metrics();
        // The name of the folder may be replaced by `*`.
        let is_here = |address: &str| address.ends_with(FILE);
        let all = last.as_ref().map(points).unwrap_or_default();
        let found = all
            .into_iter()
            .find(|point| point.name == name && point.text("network.local.address").is_some_and(is_here));
        found.map(|point| point.value)
    };
    if tier() == Tier::One {
        wait::until_ok(|| match value("acceptd.listener.blocked_connects") {
            Some(1.0) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let waited = value("acceptd.listener.blocked_connect_time").expect("a time");
        assert!((WAIT.as_secs_f64() / 2.0..60.0).contains(&waited), "{waited}");
    }
    // The accepts and their queue are known, so a refused connect would be, too.
    wait::until("the listener's metrics", || value("acceptd.listener.overflows"));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(reported(&inbox, matches), 0);
}
