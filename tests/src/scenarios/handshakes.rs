//! TCP handshakes: handshake and round-trip times, retransmitted SYN-ACKs, deferred accepts, Fast Open, SYN
//! cookies.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use acceptd::{bpf::Tier, mapping::presence::Case};
use rustix::{
    fs::fstat,
    net::{AddressFamily, SendFlags, SocketType, accept, getsockname, sendto, socket},
};

use super::support::{assert_matches_truth, assert_presence, canonical};
use crate::{
    agent::Agent,
    ground_truth::GroundTruth,
    inbox::ACCEPT,
    netns, raw,
    record::Record,
    tun_link::{ObservedHandshake, TunLink},
};

/// `MSG_FASTOPEN`, include/linux/socket.h
const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

/// The accept record with this inode. Ports do not identify it: another network namespace may use the same.
fn record_of(agent: &Agent, accepted: &OwnedFd) -> Record {
    let inode = i64::try_from(fstat(accepted).expect("fstat").st_ino).ok();
    agent.inbox.wait_for_events(ACCEPT, 1, |record| record.int("acceptd.socket.inode") == inode).remove(0)
}

fn listener() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener.into(), address)
}

/// Handshake and round-trip time are positive, and at most the time that connect(2) took.
pub(super) fn round_trip() {
    let agent = Agent::start();
    let (listener, address) = listener();
    for _ in 0..5 {
        let before = Instant::now();
        let _client = TcpStream::connect(address).expect("the listener is up");
        let upper = before.elapsed();
        let accepted = accept(&listener).expect("a connection");
        let record = record_of(&agent, &accepted);
        assert_presence(&record, Case::Tcp);
        for key in ["acceptd.tcp.handshake_time_ns", "acceptd.tcp.rtt_ns"] {
            let time = record.nanos(key).expect("a measured time");
            assert!(Duration::ZERO < time && time <= upper, "{key}: {time:?} of {upper:?}");
        }
        assert_eq!(record.int("acceptd.tcp.synack_retransmits"), Some(0));
    }
    let _ = agent.stop();
}

/// Accepts one connection from a [`TunLink`] in a new network namespace, checks its record against the
/// accepting process, and passes the record and the times that the link measured to `check`.
fn over_tun(
    shake_hands: impl FnOnce(&mut TunLink, u16) -> ObservedHandshake + Send,
    check: impl FnOnce(&Record, ObservedHandshake) + Send,
) {
    let agent = Agent::start();
    netns::in_new_netns(&[], || {
        let mut link = TunLink::new();
        let listener = TcpListener::bind(TunLink::server()).expect("the interface is up");
        let port = listener.local_addr().expect("an address").port();
        let handshake = shake_hands(&mut link, port);
        let accepted = accept(&listener).expect("a connection");
        let record = record_of(&agent, &accepted);
        assert_matches_truth(&record, &GroundTruth::from_sockets(&accepted, &listener));
        assert_eq!(record.endpoint("peer"), Some(canonical(TunLink::client())), "{record:?}");
        check(&record, handshake);
    });
    let _ = agent.stop();
}

/// A delayed final ACK counts fully as handshake time and as round-trip time; the bounds come from the remote
/// end.
pub(super) fn delayed_final_ack() {
    let shake_hands = |link: &mut TunLink, port| link.connect(port, 0, Duration::from_millis(150));
    over_tun(shake_hands, |record, handshake| {
        let lower = handshake.before_final_ack - handshake.syn_acks[0];
        let upper = handshake.finished - handshake.started;
        for key in ["acceptd.tcp.handshake_time_ns", "acceptd.tcp.rtt_ns"] {
            let time = record.nanos(key).expect("a measured time");
            assert!(lower <= time && time <= upper, "{key}: {lower:?} <= {time:?} <= {upper:?}");
        }
        assert_eq!(record.int("acceptd.tcp.synack_retransmits"), Some(0), "{record:?}");
    });
}

/// The first SYN-ACK is lost. The kernel keeps the time of the first one (`tcp_make_synack`,
/// `net/ipv4/tcp_output.c`), and measures no round-trip time from a retransmission (Karn's algorithm): tier 1
/// records the handshake time, tier 2 has no source for it, and neither records a round-trip time.
pub(super) fn retransmitted_syn_ack() {
    over_tun(
        |link, port| link.connect(port, 1, Duration::from_millis(50)),
        |record, handshake| {
            check_retransmitted(record, &handshake);
        },
    );
}

/// The same with TCP time stamps, by which the kernel measures the round-trip time from the first SYN-ACK,
/// although the client answered the second: no round-trip time is recorded either.
pub(super) fn retransmitted_syn_ack_with_time_stamps() {
    over_tun(
        |link, port| link.connect_with_time_stamps(port, 1, Duration::from_millis(50)),
        |record, handshake| check_retransmitted(record, &handshake),
    );
}

fn check_retransmitted(record: &Record, handshake: &ObservedHandshake) {
    assert_eq!(record.int("acceptd.tcp.synack_retransmits"), Some(1), "{record:?}");
    assert_eq!(record.attributes.get("acceptd.tcp.rtt_ns"), None, "{record:?}");
    let time = record.nanos("acceptd.tcp.handshake_time_ns");
    if record.tier() == Tier::One {
        let lower = handshake.before_final_ack - handshake.syn_acks[0];
        let upper = handshake.finished - handshake.started;
        let time = time.expect("a measured time");
        assert!(lower <= time && time <= upper, "{lower:?} <= {time:?} <= {upper:?}");
    } else {
        assert_eq!(time, None, "tier 2 cannot measure it");
    }
}

/// A listener with `TCP_DEFER_ACCEPT`, whose client is silent after the handshake. The client's silence is
/// neither handshake time nor round-trip time, in the record or in a span, but `deferred_time_ns`. In tier 1
/// this holds although the option is switched off before the accept; tier 2 knows only the listener of the
/// accept.
pub(super) fn deferred() {
    const SILENCE: Duration = Duration::from_millis(300);
    let agent = Agent::with_flags(&["--set=traces.export=true", "--set=traces.sampler=always_on"]);
    let (listener, address) = listener();
    let accept_from_a_silent_client = |is_on_at_the_accept: bool| {
        raw::defer_accepts(&listener, 30);
        let before = Instant::now();
        let mut client = TcpStream::connect(address).expect("the listener is up");
        let connected = Instant::now();
        thread::sleep(SILENCE);
        let silence = connected.elapsed();
        client.write_all(b"x").expect("connected");
        raw::defer_accepts(&listener, if is_on_at_the_accept { 30 } else { 0 });
        let accepted = accept(&listener).expect("a connection");
        let upper = before.elapsed();
        let record = record_of(&agent, &accepted);
        drop((client, accepted));
        (record, silence, upper)
    };
    let mut records = Vec::new();
    for is_on_at_the_accept in [true, false] {
        let (record, silence, upper) = accept_from_a_silent_client(is_on_at_the_accept);
        if record.tier() == Tier::One || is_on_at_the_accept {
            let time = record.nanos("acceptd.tcp.deferred_time_ns").expect("the time to the data");
            assert!(silence <= time && time <= upper, "{silence:?} <= {time:?} <= {upper:?}");
            let queued = record.nanos("acceptd.accept.queue_time_ns").expect("a queue time");
            assert!(queued + silence <= upper, "{queued:?} of {upper:?}");
            for absent in ["acceptd.tcp.handshake_time_ns", "acceptd.tcp.rtt_ns"] {
                assert_eq!(record.attributes.get(absent), None, "{absent}: {record:?}");
            }
            assert_eq!(record.int("acceptd.tcp.synack_retransmits"), Some(0), "{record:?}");
            records.push(record);
        }
    }
    for record in &records {
        let trace = agent.inbox.wait_for_trace(&record.log.trace_id, 2);
        let names: Vec<_> = trace.keys().map(String::as_str).collect();
        assert_eq!(names, ["accept queue", "socket connection"], "no span is a client's silence");
        let (root, queue) = (&trace["socket connection"], &trace["accept queue"]);
        assert_eq!(root.int("acceptd.tcp.rtt_ns"), None, "{root:?}");
        assert_eq!(root.span.start_time_unix_nano, queue.span.start_time_unix_nano, "{root:?}\n{queue:?}");
    }
    // The option is off now: another connection has its times again.
    let _client = TcpStream::connect(address).expect("the listener is up");
    let accepted = accept(&listener).expect("a connection");
    assert_presence(&record_of(&agent, &accepted), Case::Tcp);
    let _ = agent.stop();
}

fn fast_open_client(to: SocketAddr) -> OwnedFd {
    let client = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    assert_eq!(sendto(&client, b"x", FAST_OPEN, &to), Ok(1));
    client
}

/// TCP Fast Open: the connection is queued before it is established, so a blocked thread may accept it first.
/// Each connection is recorded once, with at most the real queue time or none, and none is reported as
/// abandoned. The kernel's counter proves that every connection was a fast open.
pub(super) fn fast_open() {
    const CONNECTIONS: u64 = 20;
    let agent = Agent::start();
    let mut port = 0;
    // 1543: client and server, without Fast Open cookies, on every listener
    // (Documentation/networking/ip-sysctl.rst).
    netns::in_new_netns(&[("tcp_fastopen", "1543")], || {
        let (listener, address) = listener();
        port = address.port();
        let connected = |client: &OwnedFd| {
            SocketAddr::try_from(getsockname(client).expect("connected")).expect("an internet address")
        };
        let check = |accepted: &OwnedFd, client: SocketAddr, truth: &GroundTruth, since: Instant| {
            let upper = since.elapsed();
            let record = record_of(&agent, accepted);
            assert_eq!(record.endpoint("local"), Some(canonical(truth.local)), "{record:?}");
            assert_eq!(record.endpoint("peer"), Some(canonical(client)), "{record:?}");
            let queued = record.nanos("acceptd.accept.queue_time_ns");
            assert!(queued.is_none_or(|queued| queued <= upper), "{queued:?} of {upper:?}: {record:?}");
            assert_eq!(record.bool("acceptd.accept.verified"), unverified(&record), "{record:?}");
            // In tier 2 the socket has its cookie only from ESTABLISHED on.
            let has_cookie = record.text("acceptd.socket.cookie").is_some();
            assert!(has_cookie || unverified(&record).is_some(), "{record:?}");
            if has_cookie {
                assert_matches_truth(&record, truth);
            } else {
                assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(truth.fd)), "{record:?}");
                assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(truth.tid)), "{record:?}");
            }
        };
        let before = netns::tcp_counter("TCPFastOpenPassive");
        // No thread is blocked: each connection is established before it is accepted.
        for _ in 0..CONNECTIONS {
            let since = Instant::now();
            let client = fast_open_client(address);
            let accepted = accept(&listener).expect("a connection");
            check(&accepted, connected(&client), &GroundTruth::from_sockets(&accepted, &listener), since);
        }
        // A thread is blocked in accept for each connection.
        for _ in 0..CONNECTIONS {
            let results = thread::scope(|scope| {
                let accepting = scope.spawn(|| {
                    let accepted = accept(&listener).expect("a connection");
                    let truth = GroundTruth::from_sockets(&accepted, &listener);
                    (accepted, truth)
                });
                let since = Instant::now();
                let client = fast_open_client(address);
                let (accepted, truth) = accepting.join().expect("the acceptor thread");
                (accepted, truth, client, since)
            });
            let (accepted, truth, client, since) = results;
            check(&accepted, connected(&client), &truth, since);
        }
        assert_eq!(
            netns::tcp_counter("TCPFastOpenPassive") - before,
            2 * CONNECTIONS,
            "every connection was a fast open"
        );
    });
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let abandoned = inbox.events("acceptd.listener.abandoned", |record| record.is_on_port(port));
    assert!(abandoned.is_empty(), "every connection was accepted: {abandoned:?}");
}

/// The expected `acceptd.accept.verified`: tier 2 verifies a connection by having seen it become established.
fn unverified(record: &Record) -> Option<bool> {
    let is_verified = record.tier() == Tier::One || record.int("acceptd.accept.queue_time_ns").is_some();
    (!is_verified).then_some(false)
}

/// With SYN cookies the kernel keeps no state before the final ACK, so the record has the queue time, but no
/// handshake time, round-trip time or retransmission count. The kernel's counter proves that every connection
/// used a cookie.
pub(super) fn syn_cookies() {
    const WAIT: Duration = Duration::from_millis(200);
    let agent = Agent::start();
    // 2: always, not only when the SYN queue overflows (Documentation/networking/ip-sysctl.rst).
    netns::in_new_netns(&[("tcp_syncookies", "2")], || {
        let (listener, address) = listener();
        let counted = netns::tcp_counter("SyncookiesRecv");
        let before = Instant::now();
        let clients: Vec<_> =
            (0..3).map(|_| TcpStream::connect(address).expect("the listener is up")).collect();
        let connected = Instant::now();
        thread::sleep(WAIT);
        let lower = connected.elapsed();
        let accepted: Vec<_> =
            clients.iter().map(|_| accept(&listener).expect("a queued connection")).collect();
        let upper = before.elapsed();
        assert_eq!(netns::tcp_counter("SyncookiesRecv") - counted, 3, "every connection used a cookie");
        for (accepted, client) in accepted.iter().zip(&clients) {
            let record = record_of(&agent, accepted);
            assert_matches_truth(&record, &GroundTruth::from_sockets(accepted, &listener));
            assert_eq!(record.endpoint("peer"), Some(canonical(client.local_addr().expect("connected"))));
            let queued = record.nanos("acceptd.accept.queue_time_ns").expect("a queue time");
            assert!(lower <= queued && queued <= upper, "{lower:?} <= {queued:?} <= {upper:?}");
            // The kernel has a round-trip time here, but from timestamps that encode the cookie, not a time.
            for absent in ["handshake_time_ns", "rtt_ns", "synack_retransmits"] {
                assert_eq!(record.attributes.get(&format!("acceptd.tcp.{absent}")), None, "{record:?}");
            }
            assert_eq!(record.attributes.get("acceptd.accept.verified"), None, "{record:?}");
        }
    });
    let _ = agent.stop();
}
