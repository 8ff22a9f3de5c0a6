//! Accepts that a process asks io_uring for.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    thread,
};

use acceptd::{bpf::Tier, mapping::presence::Case};
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::{assert_fields, assert_tells_connection, listener, shown};
use crate::{
    agent::{ACCEPT, Agent, tier},
    record::Record,
    truth::Truth,
    uring, wait,
};

/// What every accept through a ring has, with the listener as its request knows it.
fn assert_single(agent: &Agent, listener: &TcpListener, accepted: &OwnedFd, client: &TcpStream) {
    let port = listener.local_addr().expect("an address").port();
    let truth = Truth::of(accepted, listener);
    let records = agent.inbox.of_port(port, 1);
    assert_eq!(records.len(), 1, "every connection once");
    let record = &records[0];
    assert_tells_connection(record, &truth);
    assert_eq!(record.endpoint("peer"), Some(shown(client.local_addr().expect("connected"))));
    assert_eq!(record.text("acceptd.accept.syscall"), Some("io_uring"));
    assert_eq!(record.int("acceptd.listener.inode"), i64::try_from(truth.listener_inode).ok());
    assert_eq!(record.text("acceptd.listener.cookie"), Some(truth.listener_cookie.to_string().as_str()));
    // Not the listener's descriptor: the request does not keep it.
    assert_fields(record, Case::Ring);
}

/// One accept through a ring of its own, submitted with `flags`.
fn single_shot(ring: &mut IoUring, flags: squeue::Flags) {
    let agent = Agent::start();
    let (listener, address) = listener();
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(ring, &accept.build().flags(flags));
    // The request waits first: there is nothing to accept.
    let client = TcpStream::connect(address).expect("somebody listens");
    let accepted = uring::descriptor(ring);
    assert_single(&agent, &listener, &accepted, &client);
    let _ = agent.stop();
}

pub(super) fn single() {
    single_shot(&mut uring::new(8), squeue::Flags::empty());
}

/// By a worker thread of the ring, which shares the process and has a name of its own.
pub(super) fn by_a_worker() {
    single_shot(&mut uring::new(8), squeue::Flags::ASYNC);
}

/// Submitted and completed by the ring's polling thread.
pub(super) fn by_the_polling_thread() {
    single_shot(&mut uring::polling(8), squeue::Flags::empty());
}

pub(super) fn fixed_file_listener() {
    let agent = Agent::start();
    let (listener, address) = listener();
    let mut ring = uring::new(8);
    ring.submitter().register_files(&[listener.as_raw_fd()]).expect("a table of files");
    let accept = opcode::Accept::new(types::Fixed(0), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.build());
    let client = TcpStream::connect(address).expect("somebody listens");
    let accepted = uring::descriptor(&mut ring);
    assert_single(&agent, &listener, &accepted, &client);
    let _ = agent.stop();
}

/// The new socket goes to a slot of the ring's table, and is no descriptor: the record has neither, and in tier 2, which
/// looks the socket up by its descriptor, no addresses.
fn direct(slot: types::DestinationSlot) {
    let agent = Agent::start();
    let (listener, address) = listener();
    let mut ring = uring::new(8);
    ring.submitter().register_files_sparse(4).expect("a table of files");
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.file_index(Some(slot)).build());
    let client = TcpStream::connect(address).expect("somebody listens");
    let completion = uring::completion(&mut ring);
    assert!(completion.result() >= 0, "{completion:?}");
    let port = address.port();
    let records = agent.inbox.of_port(port, 1);
    let record = &records[0];
    assert_eq!(record.text("acceptd.accept.syscall"), Some("io_uring"));
    assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(port)));
    assert_fields(record, Case::Slot);
    if record.tier() == Tier::One {
        assert_eq!(record.endpoint("local"), Some(shown(address)));
        assert_eq!(record.endpoint("peer"), Some(shown(client.local_addr().expect("connected"))));
    }
    let _ = agent.stop();
}

pub(super) fn into_a_chosen_slot() {
    direct(types::DestinationSlot::try_from_slot_target(2).expect("a slot"));
}

pub(super) fn into_any_slot() {
    direct(types::DestinationSlot::auto_target());
}

pub(super) fn multishot() {
    const CONNECTIONS: usize = 20;
    let agent = Agent::start();
    let (listener, address) = listener();
    let mut ring = uring::new(64);
    uring::submit(&mut ring, &opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build());
    // One after the other: while the request takes one, another could be in the queue that is not established yet.
    let (clients, accepted): (Vec<_>, Vec<_>) = (0..CONNECTIONS)
        .map(|_| {
            let client = TcpStream::connect(address).expect("somebody listens");
            let completion = uring::completion(&mut ring);
            assert!(cqueue::more(completion.flags()), "the request goes on: {completion:?}");
            (client, uring::owned(completion.result()))
        })
        .unzip();
    assert_multishot(&agent, address, &listener, &accepted);
    drop(clients);
    let _ = agent.stop();
}

/// Every connection once, each proven by its cookie; which listener it was is not in the completion, so tier 2 does not
/// know.
fn assert_multishot(agent: &Agent, address: SocketAddr, listener: &TcpListener, accepted: &[OwnedFd]) {
    let records = agent.inbox.of_port(address.port(), accepted.len());
    assert_eq!(records.len(), accepted.len(), "every connection once");
    for accepted in accepted {
        let truth = Truth::of(accepted, listener);
        let inode = i64::try_from(truth.inode).ok();
        let of_socket = |record: &&Record| record.int("acceptd.socket.inode") == inode;
        let record = records.iter().find(of_socket).expect("a record");
        assert_tells_connection(record, &truth);
        assert_eq!(record.text("acceptd.accept.syscall"), Some("io_uring"));
        assert_fields(record, Case::Multishot);
    }
}

/// More connections than the completion queue has room for.
pub(super) fn a_full_completion_queue() {
    const CONNECTIONS: usize = 12;
    let agent = Agent::start();
    let (listener, address) = listener();
    // Four completions, and nobody takes them out.
    let mut ring = uring::with_completions(4);
    uring::submit(&mut ring, &opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(TcpStream::connect(address).expect("somebody listens"));
        ring.submitter().submit().expect("the ring runs its work");
    }
    wait::until("the completion queue to overflow", || {
        ring.submitter().submit().ok();
        ring.submission().cq_overflow().then_some(())
    });
    let mut accepted = Vec::new();
    wait::until("every accept", || {
        if ring.submission().cq_overflow() {
            // What did not fit is only put into the queue when somebody asks for completions.
            ring.submit_and_wait(1).expect("the ring waits");
        }
        while let Some(completion) = uring::next(&mut ring) {
            if completion.result() >= 0 {
                accepted.push(uring::owned(completion.result()));
            }
            if !cqueue::more(completion.flags()) {
                uring::submit(&mut ring, &opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build());
            }
        }
        (accepted.len() == CONNECTIONS).then_some(())
    });
    let records = agent.inbox.of_port(address.port(), CONNECTIONS);
    assert_eq!(records.len(), CONNECTIONS, "every connection once");
    let inode = |fd: &OwnedFd| i64::try_from(rustix::fs::fstat(fd).expect("fstat").st_ino).ok();
    let mut told: Vec<_> = records.iter().map(|record| record.int("acceptd.socket.inode")).collect();
    let mut truth: Vec<_> = accepted.iter().map(inode).collect();
    told.sort_unstable();
    truth.sort_unstable();
    assert_eq!(told, truth);
    drop(clients);
    let _ = agent.stop();
}

/// What a multishot poll of a socket that can be read and written results in: POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
/// (include/uapi/asm-generic/poll.h).
const READY: u16 = 0x145;

/// A multishot poll has completions of the same form as a multishot accept. Its results are masks, and this one is also
/// the descriptor of a connected socket.
pub(super) fn other_multishot_completions_are_no_accepts() {
    use std::io::Write as _;

    let agent = Agent::start();
    let (listener, address) = listener();
    let client = TcpStream::connect(address).expect("somebody listens");
    let (server, _) = listener.accept().expect("a connection");
    let misleading = rustix::io::fcntl_dupfd_cloexec(&server, i32::from(READY)).expect("a free descriptor");
    assert_eq!(misleading.as_raw_fd(), i32::from(READY), "the scenarios have fewer descriptors than that");
    (&client).write_all(b"x").expect("connected");
    wait::until("the byte", || (rustix::io::ioctl_fionread(&server) == Ok(1)).then_some(()));
    let mut ring = uring::new(8);
    let poll = opcode::PollAdd::new(types::Fd(server.as_raw_fd()), u32::from(READY)).multi(true).build();
    uring::submit(&mut ring, &poll);
    let completion = uring::completion(&mut ring);
    assert!(cqueue::more(completion.flags()), "the request goes on: {completion:?}");
    assert_eq!(completion.result(), i32::from(READY));
    let _second = TcpStream::connect(address).expect("somebody listens");
    let (_accepted, _) = listener.accept().expect("a connection");
    assert_eq!(agent.inbox.of_port(address.port(), 2).len(), 2, "two, and none of them by the ring");
    let ledger = agent.stop();
    // Tier 1 does not look at completions at all.
    let counted = ledger["capture"]["unverified"]["io_uring"].as_u64();
    assert!(tier() == Tier::One || counted >= Some(1), "it is counted: {ledger}");
}

pub(super) fn a_failed_request_is_a_record() {
    let agent = Agent::start();
    let idle = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
        .expect("a socket");
    rustix::net::bind(&idle, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    let port = SocketAddr::try_from(rustix::net::getsockname(&idle).expect("bound")).expect("inet").port();
    let mut ring = uring::new(8);
    let accept = opcode::Accept::new(types::Fd(idle.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.build());
    assert_eq!(uring::completion(&mut ring).result(), -22, "EINVAL: it does not listen");
    let failed = agent.inbox.of_port(port, 1);
    assert_eq!(failed[0].text("error.type"), Some("EINVAL"));
    assert_eq!(failed[0].text("acceptd.accept.syscall"), Some("io_uring"));
    assert_eq!(failed[0].attributes.get("acceptd.listener.fd"), None);
    let _ = agent.stop();
}

/// 100 threads that wait in accept, each on a listener of its own, while one listener is busy.
pub(super) fn many_threads_that_wait_elsewhere() {
    const IDLE: usize = 100;
    const BUSY: usize = 200;
    let agent = Agent::start();
    let idle: Vec<_> = (0..IDLE)
        .map(|_| {
            let (listener, address) = listener();
            (thread::spawn(move || listener.accept().expect("a connection")), address)
        })
        .collect();
    let (busy, address) = listener();
    let mut ports = HashMap::from([(address.port(), BUSY)]);
    for _ in 0..BUSY {
        let _client = TcpStream::connect(address).expect("somebody listens");
        busy.accept().expect("a connection");
    }
    for (waits, address) in idle {
        let _client = TcpStream::connect(address).expect("somebody listens");
        waits.join().expect("it accepts");
        ports.insert(address.port(), 1);
    }
    let port = |record: &Record| u16::try_from(record.int("network.local.port").unwrap_or_default()).ok();
    let records = agent
        .inbox
        .settled(ACCEPT, BUSY + IDLE, |record| port(record).is_some_and(|port| ports.contains_key(&port)));
    let ledger = agent.stop();
    // Where a program can be preempted, the kernel leaves it out for whoever runs on that CPU meanwhile, and counts that: on an
    // emulated CPU that happens to tier 2's hook on every system call from Linux 7 on.
    let left_out = match tier() {
        Tier::One => 0,
        Tier::Two => ledger["hook_missed"].as_u64().unwrap_or_default(),
    };
    assert!(
        records.len() as u64 + left_out >= (BUSY + IDLE) as u64,
        "{} of {}: {ledger}",
        records.len(),
        BUSY + IDLE
    );
    for (wanted, count) in &ports {
        let found = records.iter().filter(|record| port(record) == Some(*wanted)).count();
        assert!(found <= *count, "{found} records of {count} accepts on port {wanted}");
    }
}

/// Nothing in a completion says that it is of an accept, but the request's kind is known when it is not a multishot one.
pub(super) fn unix_single() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).expect("a new path"));
    let mut ring = uring::new(8);
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.build());
    let _client = UnixStream::connect(&path).expect("somebody listens");
    let accepted = uring::descriptor(&mut ring);
    let inode = |fd: &OwnedFd| i64::try_from(rustix::fs::fstat(fd).expect("fstat").st_ino).ok();
    let is_of = |record: &Record| record.int("acceptd.socket.inode") == inode(&accepted);
    let records = agent.inbox.of_event(ACCEPT, 1, is_of);
    let record = &records[0];
    assert_eq!(record.text("network.transport"), Some("unix"), "{record:?}");
    assert_eq!(record.text("network.local.address"), path.to_str(), "{record:?}");
    assert_eq!(record.text("acceptd.accept.syscall"), Some("io_uring"), "{record:?}");
    assert_eq!(record.int("acceptd.listener.inode"), inode(&listener), "{record:?}");
    assert_eq!(record.attributes.get("acceptd.listener.fd"), None, "{record:?}");
    match record.tier() {
        Tier::One => {
            let cookie = rustix::net::sockopt::socket_cookie(&accepted).expect("SO_COOKIE").to_string();
            assert_eq!(record.text("acceptd.socket.cookie"), Some(cookie.as_str()), "{record:?}");
            assert!(record.int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0), "{record:?}");
            assert_eq!(record.attributes.get("acceptd.accept.verified"), None, "{record:?}");
        }
        Tier::Two => {
            assert_eq!(record.bool("acceptd.accept.verified"), Some(false), "{record:?}");
            assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(accepted.as_raw_fd())), "{record:?}");
        }
    }
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.found(ACCEPT, is_of).len(), 1, "once");
}

/// A request that was given to a worker before the programs were attached.
pub(super) fn a_worker_that_already_waits() {
    let (listener, address) = listener();
    let mut ring = uring::new(8);
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.build().flags(squeue::Flags::ASYNC));
    let agent = Agent::start();
    let client = TcpStream::connect(address).expect("somebody listens");
    let accepted = uring::descriptor(&mut ring);
    let truth = Truth::of(&accepted, &listener);
    let records = agent.inbox.of_port(address.port(), 1);
    assert_tells_connection(&records[0], &truth);
    assert_eq!(records[0].endpoint("peer"), Some(shown(client.local_addr().expect("connected"))));
    assert_eq!(records[0].text("acceptd.accept.syscall"), Some("io_uring"), "{:?}", records[0]);
    assert_eq!(records[0].attributes.get("acceptd.accept.verified"), None, "{:?}", records[0]);
    assert!(records[0].int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.of_port(address.port(), 1).len(), 1, "once");
}
