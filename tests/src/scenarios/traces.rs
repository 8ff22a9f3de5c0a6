//! The traces of connections.

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

use super::{handshakes::in_a_network_of_its_own, listener};
use crate::{
    agent::{ACCEPT, Agent, Inbox, tier},
    mounted::Mounted,
    record::{Record, Span},
};

/// `IPPROTO_MPTCP`, include/uapi/linux/in.h
const MPTCP: u32 = 262;

const CONNECTION: &str = "socket connection";
const HANDSHAKE: &str = "tcp handshake";
const QUEUE: &str = "accept queue";

const TRACES: &str = "--set=traces.export=true";
const EVERY_ONE: &str = "--set=traces.sampler=always_on";
const ONLY_SLOW: &str = "--set=traces.sampler=always_off";

/// Bits of `LogRecord.flags` and `Span.flags`.
const SAMPLED: u32 = 1;

/// The spans of the connection that a record tells of.
fn trace_of(inbox: &Inbox, record: &Record, count: usize) -> BTreeMap<String, Span> {
    assert_eq!(record.log.flags & SAMPLED, SAMPLED, "{record:?}");
    inbox.trace(&record.log.trace_id, count)
}

/// Everything of one trace fits: ids, times, and who it is of.
fn assert_is_one(trace: &BTreeMap<String, Span>, record: &Record) {
    let root = &trace[CONNECTION];
    assert_eq!(root.span.span_id, record.log.span_id, "the record has the root's id");
    assert!(root.span.parent_span_id.is_empty());
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

/// The server sleeps before it accepts.
pub(super) fn a_slow_accept() {
    const SLEPT: Duration = Duration::from_millis(300);
    let agent = Agent::with(&[TRACES, ONLY_SLOW]);
    let (listener, address) = listener();
    let began = Instant::now();
    let mut client = TcpStream::connect(address).expect("somebody listens");
    let client_address = client.local_addr().expect("an address");
    thread::sleep(SLEPT);
    let (mut accepted, _) = listener.accept().expect("a connection");
    let waited = began.elapsed();
    let cookie = socket_cookie(&accepted).expect("SO_COOKIE").to_string();
    client.write_all(&[7; 1000]).expect("it is open");
    accepted.read_exact(&mut [0; 1000]).expect("what was sent");
    accepted.write_all(&[8; 5000]).expect("it is open");
    client.read_exact(&mut [0; 5000]).expect("what was sent");
    client.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(accepted.read(&mut [0; 1]).expect("the end"), 0);
    drop(accepted);
    let record = agent.inbox.of_port(address.port(), 1).remove(0);
    let trace = trace_of(&agent.inbox, &record, 3);
    assert_is_one(&trace, &record);
    let queue = trace[QUEUE].took();
    assert!(queue >= SLEPT && queue <= waited, "{queue:?} of {waited:?}");
    assert_eq!(Some(queue), record.nanos("acceptd.accept.queue_time_ns"));
    assert_eq!(Some(trace[HANDSHAKE].took()), record.nanos("acceptd.tcp.handshake_time_ns"));
    let root = &trace[CONNECTION];
    assert!(root.took() >= queue + trace[HANDSHAKE].took());
    assert_eq!(root.text("acceptd.socket.cookie"), Some(cookie.as_str()));
    assert_eq!(root.int("acceptd.connection.bytes_received"), Some(1000));
    assert_eq!(root.int("acceptd.connection.bytes_sent"), Some(5000));
    assert_eq!(root.int("acceptd.connection.retransmits"), Some(0));
    assert_eq!(root.text("acceptd.connection.closed_by"), Some("peer"));
    assert_eq!(root.text("acceptd.sampling.reason"), Some("slow"));
    assert_eq!(root.span.trace_state, "", "its probability is not known");
    assert_eq!(root.text("client.address"), Some("127.0.0.1"));
    assert_eq!(root.int("client.port"), Some(i64::from(client_address.port())));
    assert_eq!(root.int("server.port"), Some(i64::from(address.port())));
    assert_eq!(root.span.kind, 1, "INTERNAL");
    let _ = agent.stop();
}

pub(super) fn a_quick_accept_has_none() {
    // In an emulated machine nothing is quick.
    let agent = Agent::with(&[TRACES, ONLY_SLOW, "--set", "traces.keep_slower_than=1h"]);
    let (listener, address) = listener();
    drop(TcpStream::connect(address).expect("somebody listens"));
    drop(listener.accept().expect("a connection"));
    let record = agent.inbox.of_port(address.port(), 1).remove(0);
    assert_eq!((record.log.flags, record.log.trace_id.len()), (0, 16));
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    assert_eq!((inbox.spans().len(), &ledger["capture"]["spans"]), (0, &0.into()));
}

/// Each has one if its id says so, and no other.
pub(super) fn a_part_of_the_connections() {
    const CONNECTIONS: usize = 200;
    let agent = Agent::with(&[TRACES, "--set", "traces.ratio=0.5", "--set", "traces.keep_slower_than=1h"]);
    let (listener, address) = listener();
    for _ in 0..CONNECTIONS {
        let client = TcpStream::connect(address).expect("somebody listens");
        let (accepted, _) = listener.accept().expect("a connection");
        drop((accepted, client));
    }
    // Not all where the kernel leaves out runs of hooks, which the ledger tells.
    let of_port = |record: &Record| record.is_of_port(address.port());
    let records = agent.inbox.settled(ACCEPT, CONNECTIONS, of_port);
    let inbox = agent.inbox.clone();
    let missed = agent.stop()["hook_missed"].as_u64().and_then(|missed| usize::try_from(missed).ok());
    let missed = missed.expect("a count");
    assert!(records.len() + missed >= CONNECTIONS, "{} and {missed}", records.len());
    let (mut sampled, mut roots) = (0, 0);
    for record in &records {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&record.log.trace_id);
        let is_sampled = u128::from_be_bytes(bytes) & ((1 << 56) - 1) >= 1 << 55;
        assert_eq!(record.log.flags & SAMPLED == SAMPLED, is_sampled, "{record:?}");
        sampled += usize::from(is_sampled);
        let is_root = |span: &Span| span.span.trace_id == record.log.trace_id && span.span.name == CONNECTION;
        for root in inbox.spans().iter().filter(|span| is_root(span)) {
            assert!(is_sampled, "{record:?}");
            roots += 1;
            assert_eq!(root.span.trace_state, "ot=th:8");
            assert_eq!(root.text("acceptd.sampling.reason"), None);
        }
    }
    assert!(roots <= sampled && roots + missed >= sampled, "{roots} of {sampled}, {missed} missed");
    // 100 expected, standard deviation 7: six of them.
    assert!((58..=142).contains(&sampled), "{sampled}");
}

/// By FIN, by RST, by an abort.
pub(super) fn who_closed_it() {
    let agent = Agent::with(&[TRACES, EVERY_ONE]);
    let (listener, address) = listener();
    let mut ports = Vec::new();
    let mut connected = || {
        let client = TcpStream::connect(address).expect("somebody listens");
        let (accepted, from) = listener.accept().expect("a connection");
        ports.push(i64::from(from.port()));
        (client, accepted)
    };
    let ended = |mut stream: TcpStream| assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);
    // The server is first.
    let (client, accepted) = connected();
    drop(accepted);
    ended(client);
    // The peer is first.
    let (client, accepted) = connected();
    drop(client);
    ended(accepted);
    // The peer resets it.
    let (client, mut accepted) = connected();
    set_socket_linger(&client, Some(Duration::ZERO)).expect("an option");
    drop(client);
    accepted.read(&mut [0; 1]).expect_err("it was reset");
    drop(accepted);
    // The server resets it.
    let (mut client, accepted) = connected();
    set_socket_linger(&accepted, Some(Duration::ZERO)).expect("an option");
    drop(accepted);
    client.read(&mut [0; 1]).expect_err("it was reset");
    // The server is first, and the peer answers with a reset.
    let (client, mut accepted) = connected();
    accepted.shutdown(Shutdown::Write).expect("it is open");
    set_socket_linger(&client, Some(Duration::ZERO)).expect("an option");
    drop(client);
    _ = accepted.read(&mut [0; 1]);
    drop(accepted);
    let inbox = agent.inbox.clone();
    let records = inbox.of_port(address.port(), 5);
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

/// Tier 2 does not see it end: it has no trace there, and says so.
pub(super) fn of_a_unix_socket() {
    let agent = Agent::with(&[TRACES, EVERY_ONE]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("traced.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let client = UnixStream::connect(&path).expect("somebody listens");
    let (accepted, _) = listener.accept().expect("a connection");
    let inode = i64::try_from(fstat(&accepted).expect("fstat").st_ino).ok();
    drop((accepted, client));
    let of_socket = |record: &Record| record.int("acceptd.socket.inode") == inode;
    let record = agent.inbox.of_event(ACCEPT, 1, of_socket).remove(0);
    let inbox = agent.inbox.clone();
    if tier() == Tier::One {
        let trace = trace_of(&inbox, &record, 2);
        assert_is_one(&trace, &record);
        assert!(trace.contains_key(QUEUE));
        let root = &trace[CONNECTION];
        assert_eq!(root.text("network.transport"), Some("unix"));
        assert_eq!(root.text("server.address"), path.to_str());
        assert_eq!(root.int("acceptd.connection.bytes_sent"), None);
        let _ = agent.stop();
    } else {
        assert_eq!(record.log.flags & SAMPLED, 0);
        let _ = agent.stop();
        assert!(!inbox.spans().iter().any(|span| span.span.trace_id == record.log.trace_id));
    }
}

/// Its end is that of its first subflow.
pub(super) fn of_multipath_tcp() {
    let agent = Agent::with(&[TRACES, EVERY_ONE]);
    let open = || {
        let protocol = rustix::net::Protocol::from_raw(MPTCP.try_into().expect("not 0"));
        socket(AddressFamily::INET, SocketType::STREAM, Some(protocol)).expect("Multipath TCP")
    };
    let listener = open();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    bind(&listener, &any).expect("a free port");
    listen(&listener, 8).expect("it listens");
    let address = getsockname(&listener).expect("a name");
    let port = std::net::SocketAddr::try_from(address.clone()).expect("IPv4").port();
    let client = open();
    connect(&client, &address).expect("somebody listens");
    let accepted = accept(&listener).expect("a connection");
    rustix::io::write(&client, &[1; 300]).expect("it is open");
    let mut read = 0;
    while read < 300 {
        read += rustix::io::read(&accepted, &mut [0; 300]).expect("what was sent");
    }
    drop(client);
    assert_eq!(rustix::io::read(&accepted, &mut [0; 1]).expect("the end"), 0);
    drop(accepted);
    let record = agent.inbox.of_port(port, 1).remove(0);
    assert_eq!(record.bool("acceptd.socket.mptcp"), Some(true));
    if tier() == Tier::Two && record.attributes.contains_key("acceptd.accept.verified") {
        // Tier 2 does not know it to wait: what cannot be proven has no trace.
        assert_eq!(record.log.flags & SAMPLED, 0);
    } else {
        let trace = trace_of(&agent.inbox, &record, 3);
        assert_is_one(&trace, &record);
        assert_eq!(trace[CONNECTION].int("acceptd.connection.bytes_received"), Some(300));
        for span in trace.values() {
            assert_eq!(span.bool("acceptd.socket.mptcp"), Some(true), "{span:?}");
        }
    }
    let _ = agent.stop();
}

/// Of the time before nothing is known, and nothing is made up.
pub(super) fn queued_before_the_start() {
    let (listener, address) = listener();
    let client = TcpStream::connect(address).expect("somebody listens");
    let agent = Agent::with(&[TRACES, EVERY_ONE]);
    let (accepted, _) = listener.accept().expect("a connection");
    drop((accepted, client));
    let record = agent.inbox.of_port(address.port(), 1).remove(0);
    let inbox = agent.inbox.clone();
    let trace = trace_of(&inbox, &record, 1);
    assert_is_one(&trace, &record);
    let _ = agent.stop();
    let spans = inbox.spans().into_iter().filter(|span| span.span.trace_id == record.log.trace_id);
    assert_eq!(spans.map(|span| span.span.name).collect::<Vec<_>>(), [CONNECTION]);
    let root = &trace[CONNECTION];
    assert!(root.attributes.contains_key("acceptd.connection.preexisting"), "{root:?}");
    assert_eq!(root.span.start_time_unix_nano / 1_000_000_000, record.log.time_unix_nano / 1_000_000_000);
}

/// The BPF file system of a test, and what tells an agent of it. Each agent needs a state directory of its own to share nothing else.
fn pins() -> (Mounted, String) {
    let mounted = Mounted::new("bpf", "bpf");
    let flag = format!("capture.pin_directory={}", mounted.path().join("acceptd").display());
    (mounted, flag)
}

/// One agent sees the accept, the next one the end.
pub(super) fn over_a_restart() {
    let (listener, address) = listener();
    ended_by_the_next_agent(|| {
        let client = TcpStream::connect(address).expect("somebody listens");
        (client, listener.accept().expect("a connection").0)
    });
}

/// The next agent has another time of day than the one that saw the accept.
pub(super) fn over_a_restart_and_a_clock_step() {
    for direction in [1, -1] {
        let (listener, address) = listener();
        ended_by_the_next_agent_after(
            || {
                let client = TcpStream::connect(address).expect("somebody listens");
                (client, listener.accept().expect("a connection").0)
            },
            || step(STEP * direction),
            // When the process was created is told by the clock of who tells it.
            &["process.creation.time"],
        );
    }
}

/// In another network, too: what is open there is not taken for gone.
pub(super) fn over_a_restart_where_nobody_listens_any_more() {
    let mut inhabitant = None;
    ended_by_the_next_agent(|| {
        let mut connection = None;
        in_a_network_of_its_own(&[], || {
            // Ends with the pipe that it reads.
            inhabitant = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().ok();
            let (listener, address) = listener();
            let client = TcpStream::connect(address).expect("somebody listens");
            connection = Some((client, listener.accept().expect("a connection").0));
        });
        connection.expect("one")
    });
    let mut inhabitant = inhabitant.expect("cat(1)");
    drop(inhabitant.stdin.take());
    inhabitant.wait().expect("a child");
}

/// `connected` makes a connection: the client's end, and the server's.
fn ended_by_the_next_agent(connected: impl FnOnce() -> (TcpStream, TcpStream)) {
    ended_by_the_next_agent_after(connected, || (), &[]);
}

/// Between the two agents there is `meanwhile`, after which these attributes of the Resource are others.
fn ended_by_the_next_agent_after(
    connected: impl FnOnce() -> (TcpStream, TcpStream),
    meanwhile: impl FnOnce(),
    others: &[&str],
) {
    let (_mounted, pins) = pins();
    let flags = [TRACES, EVERY_ONE, "--set", &pins];
    let first = Agent::with(&flags);
    let (mut client, accepted) = connected();
    let address = accepted.local_addr().expect("connected");
    let record = first.inbox.of_port(address.port(), 1).remove(0);
    let mut trace = trace_of(&first.inbox, &record, 2);
    assert!(!trace.contains_key(CONNECTION));
    let _ = first.stop();
    client.write_all(&[1; 64]).expect("it is open");
    thread::sleep(Duration::from_millis(100));
    meanwhile();
    let second = Agent::with(&flags);
    (&accepted).read_exact(&mut [0; 64]).expect("what was sent");
    drop(accepted);
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
    trace.extend(second.inbox.trace(&record.log.trace_id, 1));
    assert_eq!(trace.len(), 3);
    let root = trace.get_mut(CONNECTION).expect("the next agent tells its end");
    for other in others {
        let before = record.resource.get(*other).expect("it is there").clone();
        assert_ne!(root.resource.insert((*other).to_owned(), before.clone()), Some(before), "{other}");
    }
    assert_is_one(&trace, &record);
    let took = trace[CONNECTION].took();
    assert!(took >= Duration::from_millis(100) && took < Duration::from_mins(10), "{took:?}");
    assert_eq!(trace[CONNECTION].int("acceptd.connection.bytes_received"), Some(64));
    assert_eq!(trace[CONNECTION].text("acceptd.connection.closed_by"), Some("local"));
    let _ = second.stop();
}

/// Nothing is kept of a connection that ends while no agent runs, and its number may be another's.
pub(super) fn what_ended_meanwhile_is_forgotten() {
    let (_mounted, pins) = pins();
    let flags = [TRACES, EVERY_ONE, "--set", &pins, "--set", "log.level=debug"];
    let first = Agent::with(&flags);
    let (listener, address) = listener();
    let connected = || {
        let client = TcpStream::connect(address).expect("somebody listens");
        (client, listener.accept().expect("a connection").0)
    };
    let (ends, stays) = (connected(), connected());
    let records = first.inbox.of_port(address.port(), 2);
    let _ = first.stop();
    drop(ends);
    let mut second = Agent::with(&flags);
    if tier() == Tier::Two {
        // In tier 1 it died with its socket. Others of this host may have ended, too.
        second.until_it_says("connections with a trace ended while no agent ran");
        let gone = second.numbers_before(" connections with a trace ended while no agent ran");
        assert!(gone.iter().sum::<f64>() >= 1.0, "{}", second.said());
    }
    drop(stays);
    let inbox = second.inbox.clone();
    let _ = inbox.trace(&records[1].log.trace_id, 1);
    let _ = second.stop();
    let of = |record: &Record| {
        inbox.spans().iter().filter(|span| span.span.trace_id == record.log.trace_id).count()
    };
    assert_eq!((of(&records[0]), of(&records[1])), (0, 1));
}

/// The wall clock jumps, and times of one connection stay in order.
const STEP: i64 = 3600;

/// Of the host's time of day.
fn step(seconds: i64) {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
    clock_settime(ClockId::Realtime, Timespec { tv_sec: tv_sec + seconds, tv_nsec }).expect("root may");
}

pub(super) fn over_a_clock_step() {
    let agent = Agent::with(&[TRACES, EVERY_ONE]);
    for direction in [1, -1] {
        let (listener, address) = listener();
        let client = TcpStream::connect(address).expect("somebody listens");
        thread::sleep(Duration::from_millis(50));
        let (accepted, _) = listener.accept().expect("a connection");
        let record = agent.inbox.of_port(address.port(), 1).remove(0);
        step(STEP * direction);
        // The agent looks at its clocks once a second.
        thread::sleep(Duration::from_secs(2));
        drop((accepted, client));
        let trace = trace_of(&agent.inbox, &record, 3);
        assert_is_one(&trace, &record);
        let took = trace[CONNECTION].took();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_mins(1), "{took:?}");
    }
    let _ = agent.stop();
}

/// It says so, and works without.
pub(super) fn without_a_bpf_file_system() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pins = format!("capture.pin_directory={}/acceptd", folder.path().display());
    let mut agent = Agent::with(&[TRACES, EVERY_ONE, "--set", &pins]);
    agent.until_it_says("is not in a BPF file system");
    assert!(agent.said().contains("mount -t bpf"), "{}", agent.said());
    assert_eq!(folder.path().read_dir().expect("it is there").count(), 0, "nothing is left in it");
    let (listener, address) = listener();
    drop(TcpStream::connect(address).expect("somebody listens"));
    drop(listener.accept().expect("a connection"));
    let record = agent.inbox.of_port(address.port(), 1).remove(0);
    assert_is_one(&trace_of(&agent.inbox, &record, 3), &record);
    let _ = agent.stop();
}

pub(super) fn peers_as_far_as_they_may_be_told() {
    let agent = Agent::with(&[TRACES, EVERY_ONE, "--set", "privacy.peer_address=prefix"]);
    let (listener, address) = listener();
    drop(TcpStream::connect(address).expect("somebody listens"));
    drop(listener.accept().expect("a connection"));
    let record = agent.inbox.of_port(address.port(), 1).remove(0);
    for span in trace_of(&agent.inbox, &record, 3).values() {
        assert_eq!(span.text("client.address"), Some("127.0.0.0"));
        assert_eq!(span.text("network.peer.address"), Some("127.0.0.0"));
        assert_eq!(span.text("server.address"), Some("127.0.0.1"));
    }
    let _ = agent.stop();
}
