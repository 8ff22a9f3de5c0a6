//! Traces: the spans of a connection, sampling, and connections that outlive the agent.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use acceptd::bpf::Tier;
use rustix::{
    fs::fstat,
    net::{
        AddressFamily, SocketType, accept, bind, connect, getsockname, listen, socket,
        sockopt::{set_socket_linger, socket_cookie},
    },
    time::{ClockId, Timespec, clock_gettime, clock_settime},
};

use super::support::listener;
use crate::{
    agent::{Agent, tier},
    inbox::{ACCEPT, Inbox},
    mounted::ScratchMount,
    netns,
    record::{Record, Span},
};

/// `IPPROTO_MPTCP`, include/uapi/linux/in.h.
const MPTCP: u32 = 262;

const CONNECTION: &str = "socket connection";
const HANDSHAKE: &str = "tcp handshake";
const QUEUE: &str = "accept queue";

const TRACES: &str = "--set=traces.export=true";
const EVERY_ONE: &str = "--set=traces.sampler=always_on";
const ONLY_SLOW: &str = "--set=traces.sampler=always_off";

/// The sampled bit of `LogRecord.flags` and `Span.flags`.
const SAMPLED: u32 = 1;

/// Waits for the `count` spans of the connection that a record reports.
fn trace_of(inbox: &Inbox, record: &Record, count: usize) -> BTreeMap<String, Span> {
    assert_eq!(record.log.flags & SAMPLED, SAMPLED, "{record:?}");
    inbox.wait_for_trace(&record.log.trace_id, count)
}

/// Checks that the spans of one trace agree with each other and with the record: ids, Resource, cookie,
/// nesting in time.
fn assert_consistent_trace(trace: &BTreeMap<String, Span>, record: &Record) {
    let root = &trace[CONNECTION];
    assert_eq!(root.span.span_id, record.log.span_id, "the record has the root's id");
    assert_eq!(root.span.parent_span_id, b"");
    for (name, span) in trace {
        assert_eq!(span.resource, record.resource, "{name}");
        assert_eq!(span.span.flags & SAMPLED, SAMPLED);
        assert_eq!(span.text("acceptd.socket.cookie"), record.text("acceptd.socket.cookie"));
        if name != CONNECTION {
            assert_eq!(span.span.parent_span_id, root.span.span_id, "{name}");
            assert!(span.is_within(root), "{span:?}\n{root:?}");
        }
    }
}

/// A connection that waits in the queue for longer than `traces.keep_slower_than` has a trace even with the
/// sampler off. Its spans match the test's own times and the record; bytes and the side that closed match
/// what the test did.
pub(super) fn a_slow_accept() {
    const SLEPT: Duration = Duration::from_millis(300);
    let agent = Agent::with_flags(&[TRACES, ONLY_SLOW]);
    let (listener, address) = listener();
    let connecting = Instant::now();
    let mut client = TcpStream::connect(address).expect("the listener is up");
    let client_address = client.local_addr().expect("an address");
    thread::sleep(SLEPT);
    let (mut accepted, _) = listener.accept().expect("a connection");
    let waited = connecting.elapsed();
    let cookie = socket_cookie(&accepted).expect("SO_COOKIE").to_string();
    client.write_all(&[7; 1000]).expect("an open connection");
    accepted.read_exact(&mut [0; 1000]).expect("the bytes sent");
    accepted.write_all(&[8; 5000]).expect("an open connection");
    client.read_exact(&mut [0; 5000]).expect("the bytes sent");
    client.shutdown(Shutdown::Write).expect("an open connection");
    assert_eq!(accepted.read(&mut [0; 1]).expect("end of file"), 0);
    drop(accepted);
    let record = agent.inbox.wait_for_accepts(address.port(), 1).remove(0);
    let trace = trace_of(&agent.inbox, &record, 3);
    assert_consistent_trace(&trace, &record);
    let queue = trace[QUEUE].duration();
    assert!(queue >= SLEPT && queue <= waited, "{queue:?} of {waited:?}");
    assert_eq!(Some(queue), record.nanos("acceptd.accept.queue_time_ns"));
    assert_eq!(Some(trace[HANDSHAKE].duration()), record.nanos("acceptd.tcp.handshake_time_ns"));
    let root = &trace[CONNECTION];
    assert!(root.duration() >= queue + trace[HANDSHAKE].duration());
    assert_eq!(root.text("acceptd.socket.cookie"), Some(cookie.as_str()));
    assert_eq!(root.int("acceptd.connection.bytes_received"), Some(1000));
    assert_eq!(root.int("acceptd.connection.bytes_sent"), Some(5000));
    assert_eq!(root.int("acceptd.connection.retransmits"), Some(0));
    assert_eq!(root.text("acceptd.connection.closed_by"), Some("peer"));
    assert_eq!(root.text("acceptd.sampling.reason"), Some("slow"));
    assert_eq!(root.span.trace_state, "", "no sampling probability applies");
    assert_eq!(root.text("client.address"), Some("127.0.0.1"));
    assert_eq!(root.int("client.port"), Some(i64::from(client_address.port())));
    assert_eq!(root.int("server.port"), Some(i64::from(address.port())));
    assert_eq!(root.span.kind, 1, "INTERNAL");
    let _ = agent.stop();
}

/// With the sampler off, an accept that is not slow makes no span.
pub(super) fn a_quick_accept_has_no_trace() {
    // The threshold is high because every accept is slow on an emulated machine.
    let agent = Agent::with_flags(&[TRACES, ONLY_SLOW, "--set", "traces.keep_slower_than=1h"]);
    let (listener, address) = listener();
    drop(TcpStream::connect(address).expect("the listener is up"));
    drop(listener.accept().expect("a connection"));
    let record = agent.inbox.wait_for_accepts(address.port(), 1).remove(0);
    assert_eq!((record.log.flags, record.log.trace_id.len(), record.log.span_id.len()), (0, 0, 0));
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    assert_eq!((inbox.spans().len(), &ledger["capture"]["spans"]), (0, &0.into()));
}

/// With `traces.ratio=0.5` about half of the connections have a trace. Their trace ids are in the sampled
/// half (OpenTelemetry probability sampling, threshold `th:8`); the records of the others have no ids, since
/// no span follows.
pub(super) fn ratio_sampling() {
    const CONNECTIONS: usize = 200;
    let agent =
        Agent::with_flags(&[TRACES, "--set", "traces.ratio=0.5", "--set", "traces.keep_slower_than=1h"]);
    let (listener, address) = listener();
    for _ in 0..CONNECTIONS {
        let client = TcpStream::connect(address).expect("the listener is up");
        let (accepted, _) = listener.accept().expect("a connection");
        drop((accepted, client));
    }
    // Some may be missing if the kernel skipped program runs, which the ledger counts.
    let on_port = |record: &Record| record.is_on_port(address.port());
    let records = agent.inbox.settled_events(ACCEPT, CONNECTIONS, on_port);
    let inbox = agent.inbox.clone();
    let missed = usize::try_from(crate::agent::skipped_runs(&agent.stop())).expect("a count");
    assert!(records.len() + missed >= CONNECTIONS, "{} records, {missed} runs skipped", records.len());
    let (mut sampled, mut roots) = (0, 0);
    for record in &records {
        let is_sampled = record.log.flags & SAMPLED == SAMPLED;
        if is_sampled {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&record.log.trace_id);
            assert!(u128::from_be_bytes(bytes) & ((1 << 56) - 1) >= 1 << 55, "{record:?}");
        } else {
            assert_eq!((record.log.trace_id.len(), record.log.span_id.len()), (0, 0), "{record:?}");
        }
        sampled += usize::from(is_sampled);
        let is_root = |span: &Span| span.span.trace_id == record.log.trace_id && span.span.name == CONNECTION;
        for root in inbox.spans().iter().filter(|span| is_root(span)) {
            assert!(is_sampled, "{record:?}");
            roots += 1;
            assert_eq!(root.span.trace_state, "ot=th:8");
            assert_eq!(root.text("acceptd.sampling.reason"), None);
        }
    }
    assert!(roots <= sampled && roots + missed >= sampled, "{roots} of {sampled}, {missed} runs skipped");
    // 100 expected, standard deviation 7: the bounds are six standard deviations.
    assert!((58..=142).contains(&sampled), "{sampled}");
}

/// `acceptd.connection.closed_by` and `error.type` name the side that closed first, and a reset, for each
/// order of FIN and RST.
pub(super) fn closed_by() {
    let agent = Agent::with_flags(&[TRACES, EVERY_ONE]);
    let (listener, address) = listener();
    let mut ports = Vec::new();
    let mut connected = || {
        let client = TcpStream::connect(address).expect("the listener is up");
        let (accepted, from) = listener.accept().expect("a connection");
        ports.push(i64::from(from.port()));
        (client, accepted)
    };
    let wait_for_eof = |mut stream: TcpStream| assert_eq!(stream.read(&mut [0; 1]).expect("end of file"), 0);
    // The server closes first.
    let (client, accepted) = connected();
    drop(accepted);
    wait_for_eof(client);
    // The peer closes first.
    let (client, accepted) = connected();
    drop(client);
    wait_for_eof(accepted);
    // The peer resets it.
    let (client, mut accepted) = connected();
    set_socket_linger(&client, Some(Duration::ZERO)).expect("setsockopt");
    drop(client);
    accepted.read(&mut [0; 1]).expect_err("a connection that was reset");
    drop(accepted);
    // The server resets it.
    let (mut client, accepted) = connected();
    set_socket_linger(&accepted, Some(Duration::ZERO)).expect("setsockopt");
    drop(accepted);
    client.read(&mut [0; 1]).expect_err("a connection that was reset");
    // The server closes first, and the peer answers with a reset.
    let (client, mut accepted) = connected();
    accepted.shutdown(Shutdown::Write).expect("an open connection");
    set_socket_linger(&client, Some(Duration::ZERO)).expect("setsockopt");
    drop(client);
    _ = accepted.read(&mut [0; 1]);
    drop(accepted);
    let inbox = agent.inbox.clone();
    let records = inbox.wait_for_accepts(address.port(), 5);
    for (record, (port, by, error)) in records.iter().zip(
        ports
            .iter()
            .zip([
                ("local", None),
                ("peer", None),
                ("peer", Some("ECONNRESET")),
                ("local", None),
                ("local", Some("ECONNRESET")),
            ])
            .map(|(port, (by, error))| (*port, by, error)),
    ) {
        assert_eq!(record.int("network.peer.port"), Some(port));
        let root = &trace_of(&inbox, record, 3)[CONNECTION];
        assert_eq!(
            (root.text("acceptd.connection.closed_by"), root.text("error.type")),
            (Some(by), error),
            "{root:?}"
        );
        let status = root.span.status.as_ref().map_or(0, |status| status.code);
        assert_eq!(status, if error.is_some() { 2 } else { 0 });
    }
    let _ = agent.stop();
}

/// A UNIX connection has a trace in tier 1. Tier 2 does not see its close: its record has no ids, and no span
/// is made.
pub(super) fn of_a_unix_socket() {
    let agent = Agent::with_flags(&[TRACES, EVERY_ONE]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("traced.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let client = UnixStream::connect(&path).expect("the listener is up");
    let (accepted, _) = listener.accept().expect("a connection");
    let inode = i64::try_from(fstat(&accepted).expect("fstat").st_ino).ok();
    drop((accepted, client));
    let same_socket = |record: &Record| record.int("acceptd.socket.inode") == inode;
    let record = agent.inbox.wait_for_events(ACCEPT, 1, same_socket).remove(0);
    let inbox = agent.inbox.clone();
    if tier() == Tier::One {
        let trace = trace_of(&inbox, &record, 2);
        assert_consistent_trace(&trace, &record);
        assert!(trace.contains_key(QUEUE));
        let root = &trace[CONNECTION];
        assert_eq!(root.text("network.transport"), Some("unix"));
        assert_eq!(root.text("server.address"), path.to_str());
        assert_eq!(root.int("acceptd.connection.bytes_sent"), None);
        let _ = agent.stop();
    } else {
        assert_eq!((record.log.flags & SAMPLED, record.log.trace_id.len()), (0, 0));
        let _ = agent.stop();
        let is_unix = |span: &Span| span.text("network.transport") == Some("unix");
        assert!(!inbox.spans().iter().any(is_unix), "tier 2 sees no close of a UNIX connection");
    }
}

/// A Multipath TCP connection has one trace, which ends with its first subflow and counts the bytes of the
/// connection.
pub(super) fn of_multipath_tcp() {
    let agent = Agent::with_flags(&[TRACES, EVERY_ONE]);
    let open = || {
        let protocol = rustix::net::Protocol::from_raw(MPTCP.try_into().expect("nonzero"));
        socket(AddressFamily::INET, SocketType::STREAM, Some(protocol)).expect("Multipath TCP")
    };
    let listener = open();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    bind(&listener, &any).expect("a free port");
    listen(&listener, 8).expect("it listens");
    let address = getsockname(&listener).expect("a name");
    let port = std::net::SocketAddr::try_from(address.clone()).expect("IPv4").port();
    let client = open();
    connect(&client, &address).expect("the listener is up");
    let accepted = accept(&listener).expect("a connection");
    rustix::io::write(&client, &[1; 300]).expect("an open connection");
    let mut read = 0;
    while read < 300 {
        read += rustix::io::read(&accepted, &mut [0; 300]).expect("the bytes sent");
    }
    drop(client);
    assert_eq!(rustix::io::read(&accepted, &mut [0; 1]).expect("end of file"), 0);
    drop(accepted);
    let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
    assert_eq!(record.bool("acceptd.socket.mptcp"), Some(true));
    if tier() == Tier::Two && record.attributes.contains_key("acceptd.accept.verified") {
        // Tier 2 may not have verified the connection; an unverified one has no trace.
        assert_eq!(record.log.flags & SAMPLED, 0);
    } else {
        let trace = trace_of(&agent.inbox, &record, 3);
        assert_consistent_trace(&trace, &record);
        assert_eq!(trace[CONNECTION].int("acceptd.connection.bytes_received"), Some(300));
        for span in trace.values() {
            assert_eq!(span.bool("acceptd.socket.mptcp"), Some(true), "{span:?}");
        }
    }
    let _ = agent.stop();
}

/// A connection that was queued before the agent started has a root span only, marked as preexisting, which
/// starts at the accept: earlier times are unknown.
pub(super) fn queued_before_the_start() {
    let (listener, address) = listener();
    let client = TcpStream::connect(address).expect("the listener is up");
    let agent = Agent::with_flags(&[TRACES, EVERY_ONE]);
    let (accepted, _) = listener.accept().expect("a connection");
    drop((accepted, client));
    let record = agent.inbox.wait_for_accepts(address.port(), 1).remove(0);
    let inbox = agent.inbox.clone();
    let trace = trace_of(&inbox, &record, 1);
    assert_consistent_trace(&trace, &record);
    let _ = agent.stop();
    let spans = inbox.spans().into_iter().filter(|span| span.span.trace_id == record.log.trace_id);
    assert_eq!(spans.map(|span| span.span.name).collect::<Vec<_>>(), [CONNECTION]);
    let root = &trace[CONNECTION];
    assert!(root.attributes.contains_key("acceptd.connection.preexisting"), "{root:?}");
    assert_eq!(root.span.start_time_unix_nano / 1_000_000_000, record.log.time_unix_nano / 1_000_000_000);
}

/// A BPF file system, and the argument for `--set` with which agents share their pinned maps, and nothing
/// else, through it.
fn pins() -> (ScratchMount, String) {
    let mounted = ScratchMount::new("bpf", "bpf");
    let flag = format!("capture.pin_directory={}", mounted.path().join("acceptd").display());
    (mounted, flag)
}

/// The first agent sees the accept, the next one the close: the trace is complete.
pub(super) fn over_a_restart() {
    let (listener, address) = listener();
    closed_under_the_next_agent(|| {
        let client = TcpStream::connect(address).expect("the listener is up");
        (client, listener.accept().expect("a connection").0)
    });
}

/// The same while the wall clock steps between the two agents, forwards and backwards.
pub(super) fn over_a_restart_and_a_clock_step() {
    for direction in [1, -1] {
        let (listener, address) = listener();
        closed_under_the_next_agent_after(
            || {
                let client = TcpStream::connect(address).expect("the listener is up");
                (client, listener.accept().expect("a connection").0)
            },
            || step(STEP * direction),
            // The creation time is computed with the clock of the agent that reports it.
            &["process.creation.time"],
        );
    }
}

/// The same in another network namespace, in which no socket listens any more: its open connections are not
/// mistaken for closed ones.
pub(super) fn over_a_restart_in_another_network_namespace() {
    let mut occupant = None;
    closed_under_the_next_agent(|| {
        let mut connection = None;
        netns::in_new_netns(&[], || {
            // A process keeps the namespace alive until its stdin is closed.
            occupant = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().ok();
            let (listener, address) = listener();
            let client = TcpStream::connect(address).expect("the listener is up");
            connection = Some((client, listener.accept().expect("a connection").0));
        });
        connection.expect("at least one")
    });
    let mut occupant = occupant.expect("cat(1)");
    drop(occupant.stdin.take());
    occupant.wait().expect("waitpid");
}

/// Proves that a connection which is accepted under one agent and closed under the next has one complete
/// trace. `connected` makes it, and returns the client's and the server's end.
fn closed_under_the_next_agent(connected: impl FnOnce() -> (TcpStream, TcpStream)) {
    closed_under_the_next_agent_after(connected, || (), &[]);
}

/// Runs `meanwhile` between the two agents, after which exactly the Resource attributes `others` must differ.
fn closed_under_the_next_agent_after(
    connected: impl FnOnce() -> (TcpStream, TcpStream),
    meanwhile: impl FnOnce(),
    others: &[&str],
) {
    let (_mounted, pins) = pins();
    let flags = [TRACES, EVERY_ONE, "--set", &pins];
    let first = Agent::with_flags(&flags);
    let (mut client, accepted) = connected();
    let address = accepted.local_addr().expect("connected");
    let record = first.inbox.wait_for_accepts(address.port(), 1).remove(0);
    let mut trace = trace_of(&first.inbox, &record, 2);
    assert!(!trace.contains_key(CONNECTION));
    let _ = first.stop();
    client.write_all(&[1; 64]).expect("an open connection");
    thread::sleep(Duration::from_millis(100));
    meanwhile();
    let second = Agent::with_flags(&flags);
    (&accepted).read_exact(&mut [0; 64]).expect("the bytes sent");
    drop(accepted);
    assert_eq!(client.read(&mut [0; 1]).expect("end of file"), 0);
    trace.extend(second.inbox.wait_for_trace(&record.log.trace_id, 1));
    assert_eq!(trace.len(), 3);
    let root = trace.get_mut(CONNECTION).expect("the next agent reports the close");
    for other in others {
        let before = record.resource.get(*other).expect("an attribute of the Resource").clone();
        assert_ne!(root.resource.insert((*other).to_owned(), before.clone()), Some(before), "{other}");
    }
    assert_consistent_trace(&trace, &record);
    let took = trace[CONNECTION].duration();
    assert!(took >= Duration::from_millis(100) && took < Duration::from_mins(10), "{took:?}");
    assert_eq!(trace[CONNECTION].int("acceptd.connection.bytes_received"), Some(64));
    assert_eq!(trace[CONNECTION].text("acceptd.connection.closed_by"), Some("local"));
    let _ = second.stop();
}

/// A connection that is closed while no agent runs gets no span from the next agent, which removes its entry:
/// its key may be reused. A connection that stays open gets its root span.
pub(super) fn connections_closed_between_agents_are_forgotten() {
    let (_mounted, pins) = pins();
    let flags = [TRACES, EVERY_ONE, "--set", &pins, "--set", "log.level=debug"];
    let first = Agent::with_flags(&flags);
    let (listener, address) = listener();
    let connected = || {
        let client = TcpStream::connect(address).expect("the listener is up");
        (client, listener.accept().expect("a connection").0)
    };
    let (closed, open) = (connected(), connected());
    let records = first.inbox.wait_for_accepts(address.port(), 2);
    let _ = first.stop();
    drop(closed);
    let mut second = Agent::with_flags(&flags);
    if tier() == Tier::Two {
        // Tier 1 keeps the entry in the socket's own storage. Other connections of this host may have closed,
        // too.
        second.wait_for_message("traced connections that ended while no agent ran");
        let counts = second.numbers_before(" traced connections that ended while no agent ran");
        assert!(counts.iter().sum::<f64>() >= 1.0, "{}", second.stderr());
    }
    drop(open);
    let inbox = second.inbox.clone();
    let _ = inbox.wait_for_trace(&records[1].log.trace_id, 1);
    let _ = second.stop();
    let span_count = |record: &Record| {
        inbox.spans().iter().filter(|span| span.span.trace_id == record.log.trace_id).count()
    };
    assert_eq!((span_count(&records[0]), span_count(&records[1])), (0, 1));
}

/// How far the wall clock is stepped, in seconds.
const STEP: i64 = 3600;

/// Steps the host's wall clock.
fn step(seconds: i64) {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
    clock_settime(ClockId::Realtime, Timespec { tv_sec: tv_sec + seconds, tv_nsec })
        .expect("root privileges");
}

/// The wall clock steps during a connection: its spans keep their order and their real durations.
pub(super) fn over_a_clock_step() {
    let agent = Agent::with_flags(&[TRACES, EVERY_ONE]);
    for direction in [1, -1] {
        let (listener, address) = listener();
        let client = TcpStream::connect(address).expect("the listener is up");
        thread::sleep(Duration::from_millis(50));
        let (accepted, _) = listener.accept().expect("a connection");
        let record = agent.inbox.wait_for_accepts(address.port(), 1).remove(0);
        step(STEP * direction);
        // The agent compares its clocks once a second.
        thread::sleep(Duration::from_secs(2));
        drop((accepted, client));
        let trace = trace_of(&agent.inbox, &record, 3);
        assert_consistent_trace(&trace, &record);
        let took = trace[CONNECTION].duration();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_mins(1), "{took:?}");
    }
    let _ = agent.stop();
}

/// A pin directory outside a BPF file system: the agent logs the remedy, creates nothing there, and traces
/// without pins.
pub(super) fn without_a_bpf_file_system() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pins = format!("capture.pin_directory={}/acceptd", folder.path().display());
    let mut agent = Agent::with_flags(&[TRACES, EVERY_ONE, "--set", &pins]);
    agent.wait_for_message("is not in a BPF file system");
    assert!(agent.stderr().contains("mount -t bpf"), "{}", agent.stderr());
    assert_eq!(folder.path().read_dir().expect("the folder exists").count(), 0, "the folder stays empty");
    let (listener, address) = listener();
    drop(TcpStream::connect(address).expect("the listener is up"));
    drop(listener.accept().expect("a connection"));
    let record = agent.inbox.wait_for_accepts(address.port(), 1).remove(0);
    assert_consistent_trace(&trace_of(&agent.inbox, &record, 3), &record);
    let _ = agent.stop();
}

/// `privacy.peer_address` applies to spans, too.
pub(super) fn peer_address_privacy() {
    let agent = Agent::with_flags(&[TRACES, EVERY_ONE, "--set", "privacy.peer_address=prefix"]);
    let (listener, address) = listener();
    drop(TcpStream::connect(address).expect("the listener is up"));
    drop(listener.accept().expect("a connection"));
    let record = agent.inbox.wait_for_accepts(address.port(), 1).remove(0);
    for span in trace_of(&agent.inbox, &record, 3).values() {
        assert_eq!(span.text("client.address"), Some("127.0.0.0"));
        assert_eq!(span.text("network.peer.address"), Some("127.0.0.0"));
        assert_eq!(span.text("server.address"), Some("127.0.0.1"));
    }
    let _ = agent.stop();
}
