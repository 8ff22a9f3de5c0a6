//! Accepts through io_uring.

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

use super::support::{assert_connection_matches_truth, assert_presence, canonical, listener};
use crate::{
    agent::{Agent, tier},
    ground_truth::GroundTruth,
    inbox::ACCEPT,
    record::Record,
    uring, wait,
};

/// Checks the record of a single-shot accept through io_uring, including its listener.
fn assert_single(agent: &Agent, listener: &TcpListener, accepted: &OwnedFd, client: &TcpStream) {
    let port = listener.local_addr().expect("an address").port();
    let truth = GroundTruth::from_sockets(accepted, listener);
    let records = agent.inbox.wait_for_accepts(port, 1);
    assert_eq!(records.len(), 1, "one record for each connection");
    let record = &records[0];
    assert_connection_matches_truth(record, &truth);
    assert_eq!(record.endpoint("peer"), Some(canonical(client.local_addr().expect("connected"))));
    assert_eq!(record.text("acceptd.accept.syscall"), Some("io_uring"));
    assert_eq!(record.int("acceptd.listener.inode"), i64::try_from(truth.listener_inode).ok());
    assert_eq!(record.text("acceptd.listener.cookie"), Some(truth.listener_cookie.to_string().as_str()));
    // The listener's descriptor is absent: the request does not keep it.
    assert_presence(record, Case::Ring);
}

/// Proves that one single-shot accept, submitted to `ring` with `flags`, makes exactly one correct record.
fn single_shot(ring: &mut IoUring, flags: squeue::Flags) {
    let agent = Agent::start();
    let (listener, address) = listener();
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(ring, &accept.build().flags(flags));
    // The request is submitted before the connection, so it has to wait.
    let client = TcpStream::connect(address).expect("the listener is up");
    let accepted = uring::descriptor(ring);
    assert_single(&agent, &listener, &accepted, &client);
    let _ = agent.stop();
}

/// Completed in the submitting thread.
pub(super) fn single() {
    single_shot(&mut uring::new(8), squeue::Flags::empty());
}

/// Completed by an io-wq worker thread, which belongs to the process but has its own name.
pub(super) fn by_a_worker() {
    single_shot(&mut uring::new(8), squeue::Flags::ASYNC);
}

/// Submitted and completed by the SQPOLL thread.
pub(super) fn by_the_polling_thread() {
    single_shot(&mut uring::with_sqpoll(8), squeue::Flags::empty());
}

/// The listener is a registered file instead of a descriptor.
pub(super) fn fixed_file_listener() {
    let agent = Agent::start();
    let (listener, address) = listener();
    let mut ring = uring::new(8);
    ring.submitter().register_files(&[listener.as_raw_fd()]).expect("a table of files");
    let accept = opcode::Accept::new(types::Fixed(0), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.build());
    let client = TcpStream::connect(address).expect("the listener is up");
    let accepted = uring::descriptor(&mut ring);
    assert_single(&agent, &listener, &accepted, &client);
    let _ = agent.stop();
}

/// The new socket becomes a registered file at `slot` and gets no descriptor, so the record has none.
fn direct(slot: types::DestinationSlot) {
    let agent = Agent::start();
    let (listener, address) = listener();
    let mut ring = uring::new(8);
    ring.submitter().register_files_sparse(4).expect("a table of files");
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.file_index(Some(slot)).build());
    let client = TcpStream::connect(address).expect("the listener is up");
    let completion = uring::completion(&mut ring);
    assert!(completion.result() >= 0, "{completion:?}");
    let port = address.port();
    let records = agent.inbox.wait_for_accepts(port, 1);
    let record = &records[0];
    assert_eq!(record.text("acceptd.accept.syscall"), Some("io_uring"));
    assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(port)));
    assert_presence(record, Case::Slot);
    assert_eq!(record.endpoint("local"), Some(canonical(address)));
    assert_eq!(record.endpoint("peer"), Some(canonical(client.local_addr().expect("connected"))));
    assert_told_once(agent, ring, address.port(), &[client]);
}

/// Closes the connections that were accepted into slots of `ring`, and checks that each client has exactly
/// one accept, and that no connection is reported as abandoned.
fn assert_told_once(agent: Agent, ring: IoUring, port: u16, clients: &[TcpStream]) {
    drop(ring);
    for mut client in clients {
        let end = std::io::Read::read(&mut client, &mut [0; 1]);
        assert!(matches!(end, Ok(0) | Err(_)), "the ring closed its files: {end:?}");
    }
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.wait_for_accepts(port, clients.len()).len(), clients.len(), "one record each");
    let abandoned = inbox.events("acceptd.listener.abandoned", |record| record.is_on_port(port));
    assert!(abandoned.is_empty(), "every connection was accepted: {abandoned:?}");
}

/// One multishot request accepts connections into slots that the kernel chooses: each is recorded once, with
/// its addresses.
pub(super) fn multishot_into_slots() {
    const CONNECTIONS: usize = 8;
    let agent = Agent::start();
    let (listener, address) = listener();
    let mut ring = uring::new(64);
    ring.submitter().register_files_sparse(16).expect("a table of files");
    let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).allocate_file_index(true);
    uring::submit(&mut ring, &accept.build());
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let client = TcpStream::connect(address).expect("the listener is up");
            let completion = uring::completion(&mut ring);
            assert!(cqueue::more(completion.flags()), "the request goes on: {completion:?}");
            assert!(completion.result() >= 0, "a slot: {completion:?}");
            client
        })
        .collect();
    let records = agent.inbox.wait_for_accepts(address.port(), CONNECTIONS);
    for (record, client) in records.iter().zip(&clients) {
        assert_eq!(record.text("acceptd.accept.syscall"), Some("io_uring"), "{record:?}");
        assert_eq!(record.endpoint("local"), Some(canonical(address)), "{record:?}");
        assert_eq!(record.endpoint("peer"), Some(canonical(client.local_addr().expect("connected"))));
        assert_eq!(record.int("acceptd.socket.fd"), None, "a slot is no descriptor: {record:?}");
        assert_eq!(record.attributes.get("acceptd.accept.verified"), None, "{record:?}");
        assert!(record.int("acceptd.accept.queue_time_ns").is_some(), "{record:?}");
    }
    assert_told_once(agent, ring, address.port(), &clients);
}

/// A request that its owner cancels, or whose ring is closed, accepted nothing: it is counted with the
/// interrupted calls, and is no failure.
pub(super) fn a_cancelled_request_is_only_counted() {
    const ECANCELED: i32 = 125;
    let agent = Agent::start();
    let (listener, address) = listener();
    let mut ring = uring::new(8);
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    let accept = accept.build().user_data(1);
    uring::submit(&mut ring, &accept);
    uring::submit(&mut ring, &opcode::AsyncCancel::new(1).build().user_data(2));
    let results: HashMap<_, _> = [uring::completion(&mut ring), uring::completion(&mut ring)]
        .map(|completion| (completion.user_data(), completion.result()))
        .into();
    assert_eq!(results, HashMap::from([(1, -ECANCELED), (2, 0)]));
    uring::submit(&mut ring, &accept);
    drop((ring, listener));
    // The request keeps the listener open until the kernel has cancelled it.
    let _again = wait::until("the kernel to cancel the request", || TcpListener::bind(address).ok());
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    let cancelled = |record: &Record| record.text("error.type") == Some("ECANCELED");
    assert_eq!(inbox.events(ACCEPT, cancelled).len(), 0, "it is no failed accept");
    // Tier 1 sees only accepts that begin.
    let interrupted = ledger["capture"]["aggregated"]["interrupted"].as_u64();
    assert!(tier() == Tier::One || interrupted >= Some(2), "{ledger}");
}

/// Into the slot that the request names.
pub(super) fn into_a_chosen_slot() {
    direct(types::DestinationSlot::try_from_slot_target(2).expect("a slot"));
}

/// Into a slot that the kernel chooses.
pub(super) fn into_any_slot() {
    direct(types::DestinationSlot::auto_target());
}

/// One multishot request accepts 20 connections: each is recorded once.
pub(super) fn multishot() {
    const CONNECTIONS: usize = 20;
    let agent = Agent::start();
    let (listener, address) = listener();
    let mut ring = uring::new(64);
    uring::submit(&mut ring, &opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build());
    // Connect one at a time, so that no connection is queued before it is established.
    let (clients, accepted): (Vec<_>, Vec<_>) = (0..CONNECTIONS)
        .map(|_| {
            let client = TcpStream::connect(address).expect("the listener is up");
            let completion = uring::completion(&mut ring);
            assert!(cqueue::more(completion.flags()), "the request goes on: {completion:?}");
            (client, uring::owned(completion.result()))
        })
        .unzip();
    assert_multishot(&agent, address, &listener, &accepted);
    drop(clients);
    let _ = agent.stop();
}

/// Checks that every accepted socket has exactly one record. A completion does not name the listener, so tier
/// 2's records have none.
fn assert_multishot(agent: &Agent, address: SocketAddr, listener: &TcpListener, accepted: &[OwnedFd]) {
    let records = agent.inbox.wait_for_accepts(address.port(), accepted.len());
    assert_eq!(records.len(), accepted.len(), "one record for each connection");
    for accepted in accepted {
        let truth = GroundTruth::from_sockets(accepted, listener);
        let inode = i64::try_from(truth.inode).ok();
        let of_socket = |record: &&Record| record.int("acceptd.socket.inode") == inode;
        let record = records.iter().find(of_socket).expect("a record");
        assert_connection_matches_truth(record, &truth);
        assert_eq!(record.text("acceptd.accept.syscall"), Some("io_uring"));
        assert_presence(record, Case::Multishot);
    }
}

/// Accepts whose completions overflow the completion queue are recorded once each.
pub(super) fn a_full_completion_queue() {
    const CONNECTIONS: usize = 12;
    let agent = Agent::start();
    let (listener, address) = listener();
    // Room for four completions, which stay in the queue.
    let mut ring = uring::with_completions(4);
    uring::submit(&mut ring, &opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(TcpStream::connect(address).expect("the listener is up"));
        ring.submitter().submit().expect("the ring runs its work");
    }
    wait::until("the completion queue to overflow", || {
        ring.submitter().submit().ok();
        ring.submission().cq_overflow().then_some(())
    });
    let mut accepted = Vec::new();
    wait::until("every accept", || {
        if ring.submission().cq_overflow() {
            // The kernel moves overflowed completions into the queue only when asked for completions.
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
    let records = agent.inbox.wait_for_accepts(address.port(), CONNECTIONS);
    assert_eq!(records.len(), CONNECTIONS, "one record for each connection");
    let inode = |fd: &OwnedFd| i64::try_from(rustix::fs::fstat(fd).expect("fstat").st_ino).ok();
    let mut recorded: Vec<_> = records.iter().map(|record| record.int("acceptd.socket.inode")).collect();
    let mut truth: Vec<_> = accepted.iter().map(inode).collect();
    recorded.sort_unstable();
    truth.sort_unstable();
    assert_eq!(recorded, truth);
    drop(clients);
    let _ = agent.stop();
}

/// The result of a poll of a readable and writable socket: POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
/// (include/uapi/asm-generic/poll.h).
const READY: u16 = 0x145;

/// Completions of a multishot poll have the same form as those of a multishot accept, with event masks as
/// results. Here the mask equals the descriptor of a connected socket, and yet no accept is recorded.
pub(super) fn multishot_poll_is_not_an_accept() {
    use std::io::Write as _;

    let agent = Agent::start();
    let (listener, address) = listener();
    let client = TcpStream::connect(address).expect("the listener is up");
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
    let _second = TcpStream::connect(address).expect("the listener is up");
    let (_accepted, _) = listener.accept().expect("a connection");
    assert_eq!(
        agent.inbox.wait_for_accepts(address.port(), 2).len(),
        2,
        "the two accepts, and none through the ring"
    );
    let ledger = agent.stop();
    // Tier 1 does not use completions.
    let counted = ledger["capture"]["unverified"]["io_uring"].as_u64();
    assert!(tier() == Tier::One || counted >= Some(1), "it is counted: {ledger}");
}

/// An accept request that fails with EINVAL is recorded with that errno.
pub(super) fn a_failed_request_is_recorded() {
    let agent = Agent::start();
    let idle = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
        .expect("a socket");
    rustix::net::bind(&idle, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    let port = SocketAddr::try_from(rustix::net::getsockname(&idle).expect("bound")).expect("inet").port();
    let mut ring = uring::new(8);
    let accept = opcode::Accept::new(types::Fd(idle.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.build());
    assert_eq!(uring::completion(&mut ring).result(), -22, "EINVAL: it does not listen");
    let failed = agent.inbox.wait_for_accepts(port, 1);
    assert_eq!(failed[0].text("error.type"), Some("EINVAL"));
    assert_eq!(failed[0].text("acceptd.accept.syscall"), Some("io_uring"));
    assert_eq!(failed[0].attributes.get("acceptd.listener.fd"), None);
    let _ = agent.stop();
}

/// 100 threads are blocked in accept, each on its own listener, while another listener is busy: every accept
/// is recorded on its own port, and at most once.
pub(super) fn many_threads_blocked_on_other_listeners() {
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
        let _client = TcpStream::connect(address).expect("the listener is up");
        busy.accept().expect("a connection");
    }
    for (waiting, address) in idle {
        let _client = TcpStream::connect(address).expect("the listener is up");
        waiting.join().expect("the acceptor thread");
        ports.insert(address.port(), 1);
    }
    let port = |record: &Record| u16::try_from(record.int("network.local.port").unwrap_or_default()).ok();
    let records = agent.inbox.settled_events(ACCEPT, BUSY + IDLE, |record| {
        port(record).is_some_and(|port| ports.contains_key(&port))
    });
    let ledger = agent.stop();
    // A preemptible kernel skips, and counts, runs of a program on a CPU on which it was preempted. From
    // Linux 7 on this happens to tier 2's hook on every system call, on an emulated CPU.
    let missed = match tier() {
        Tier::One => 0,
        Tier::Two => crate::agent::skipped_runs(&ledger),
    };
    assert!(
        records.len() as u64 + missed >= (BUSY + IDLE) as u64,
        "{} of {}: {ledger}",
        records.len(),
        BUSY + IDLE
    );
    for (wanted, count) in &ports {
        let found = records.iter().filter(|record| port(record) == Some(*wanted)).count();
        assert!(found <= *count, "{found} records of {count} accepts on port {wanted}");
    }
}

/// A single-shot accept on a UNIX socket is recorded once. A completion does not say that it is an accept,
/// but the kind of its request is known unless it is a multishot one.
pub(super) fn unix_single() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).expect("an unused path"));
    let mut ring = uring::new(8);
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.build());
    let _client = UnixStream::connect(&path).expect("the listener is up");
    let accepted = uring::descriptor(&mut ring);
    let inode = |fd: &OwnedFd| i64::try_from(rustix::fs::fstat(fd).expect("fstat").st_ino).ok();
    let matches = |record: &Record| record.int("acceptd.socket.inode") == inode(&accepted);
    let records = agent.inbox.wait_for_events(ACCEPT, 1, matches);
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
    assert_eq!(inbox.events(ACCEPT, matches).len(), 1, "exactly one record");
}

/// A request that an io-wq worker was already executing when the agent started is recorded once, with its
/// queue time.
pub(super) fn a_worker_already_blocked_at_start() {
    let (listener, address) = listener();
    let mut ring = uring::new(8);
    let accept =
        opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    uring::submit(&mut ring, &accept.build().flags(squeue::Flags::ASYNC));
    let agent = Agent::start();
    let client = TcpStream::connect(address).expect("the listener is up");
    let accepted = uring::descriptor(&mut ring);
    let truth = GroundTruth::from_sockets(&accepted, &listener);
    let records = agent.inbox.wait_for_accepts(address.port(), 1);
    assert_connection_matches_truth(&records[0], &truth);
    assert_eq!(records[0].endpoint("peer"), Some(canonical(client.local_addr().expect("connected"))));
    assert_eq!(records[0].text("acceptd.accept.syscall"), Some("io_uring"), "{:?}", records[0]);
    assert_eq!(records[0].attributes.get("acceptd.accept.verified"), None, "{:?}", records[0]);
    assert!(records[0].int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.wait_for_accepts(address.port(), 1).len(), 1, "exactly one record");
}
