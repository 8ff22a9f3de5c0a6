//! Ways in which a TCP connection is established.

use std::{
    any::Any,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use acceptd::{bpf::Tier, mapping::presence::Case};
use rustix::{
    fs::fstat,
    net::{AddressFamily, SendFlags, SocketType, accept, getsockname, sendto, socket},
};

use super::{assert_fields, assert_tells, shown};
use crate::{
    agent::{ACCEPT, Agent},
    raw,
    record::Record,
    truth::Truth,
    wire::{Handshake, Wire},
};

/// `MSG_FASTOPEN`, include/linux/socket.h
const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

/// Runs `body` in a thread whose network is one of its own, with settings of `net.ipv4`.
pub(super) fn in_a_network_of_its_own(settings: &[(&str, &str)], body: impl FnOnce() + Send) {
    let prepared = || {
        raw::leave_the_network();
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip, of iproute2 or busybox").success());
        for (name, value) in settings {
            fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("root may");
        }
        body();
    };
    let ended = thread::scope(|scope| scope.spawn(prepared).join());
    if let Err(payload) = ended {
        let payload: &dyn Any = &*payload;
        let message = payload.downcast_ref::<String>().map(String::as_str);
        panic!("{}", message.or_else(|| payload.downcast_ref().copied()).unwrap_or("it failed"));
    }
}

/// A counter of the calling thread's network, as `TcpExt` of `/proc/net/netstat` has it.
fn counter(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("statistics");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split(' ').position(|other| other == name).expect("the kernel counts it");
    values.split(' ').nth(at).and_then(|value| value.parse().ok()).expect("a number")
}

/// The record of an accept; ports of another network may be the same.
fn record_of(agent: &Agent, accepted: &OwnedFd) -> Record {
    let inode = i64::try_from(fstat(accepted).expect("fstat").st_ino).ok();
    agent.inbox.of_event(ACCEPT, 1, |record| record.int("acceptd.socket.inode") == inode).remove(0)
}

fn listener() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener.into(), address)
}

/// Both are part of the time that it took to connect.
pub(super) fn round_trip() {
    let agent = Agent::start();
    let (listener, address) = listener();
    for _ in 0..5 {
        let before = Instant::now();
        let _client = TcpStream::connect(address).expect("somebody listens");
        let upper = before.elapsed();
        let accepted = accept(&listener).expect("a connection");
        let record = record_of(&agent, &accepted);
        assert_fields(&record, Case::Tcp);
        for key in ["acceptd.tcp.handshake_time_ns", "acceptd.tcp.rtt_ns"] {
            let time = record.nanos(key).expect("it is known");
            assert!(Duration::ZERO < time && time <= upper, "{key}: {time:?} of {upper:?}");
        }
        assert_eq!(record.int("acceptd.tcp.synack_retransmits"), Some(0));
    }
    let _ = agent.stop();
}

/// A handshake over a wire of ours, in a network of its own: its record, and what the wire knows.
fn over_a_wire(lost: usize, delay: Duration, check: impl FnOnce(&Record, Handshake) + Send) {
    let agent = Agent::start();
    in_a_network_of_its_own(&[], || {
        let mut wire = Wire::new();
        let listener = TcpListener::bind(Wire::server()).expect("the interface is up");
        let port = listener.local_addr().expect("an address").port();
        let handshake = wire.connect(port, lost, delay);
        let accepted = accept(&listener).expect("a connection");
        let record = record_of(&agent, &accepted);
        assert_tells(&record, &Truth::of(&accepted, &listener));
        assert_eq!(record.endpoint("peer"), Some(shown(Wire::client())), "{record:?}");
        check(&record, handshake);
    });
    let _ = agent.stop();
}

/// A client that is slow with the last packet: all of that is handshake, and round trip.
pub(super) fn delayed() {
    over_a_wire(0, Duration::from_millis(150), |record, handshake| {
        let lower = handshake.before_last - handshake.answers[0];
        let upper = handshake.ended - handshake.began;
        for key in ["acceptd.tcp.handshake_time_ns", "acceptd.tcp.rtt_ns"] {
            let time = record.nanos(key).expect("it is known");
            assert!(lower <= time && time <= upper, "{key}: {lower:?} <= {time:?} <= {upper:?}");
        }
        assert_eq!(record.int("acceptd.tcp.synack_retransmits"), Some(0), "{record:?}");
    });
}

/// The first answers are lost. The kernel keeps when it sent the first (`tcp_make_synack`, `net/ipv4/tcp_output.c`), and takes
/// no round-trip time from what was sent twice.
pub(super) fn repeated_answers() {
    over_a_wire(1, Duration::from_millis(50), |record, handshake| {
        assert_eq!(record.int("acceptd.tcp.synack_retransmits"), Some(1), "{record:?}");
        assert_eq!(record.attributes.get("acceptd.tcp.rtt_ns"), None, "{record:?}");
        let time = record.nanos("acceptd.tcp.handshake_time_ns");
        if record.tier() == Tier::One {
            let lower = handshake.before_last - handshake.answers[0];
            let upper = handshake.ended - handshake.began;
            let time = time.expect("it is known");
            assert!(lower <= time && time <= upper, "{lower:?} <= {time:?} <= {upper:?}");
        } else {
            assert_eq!(time, None, "nothing measured it");
        }
    });
}

fn fast_open_client(to: SocketAddr) -> OwnedFd {
    let client = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    assert_eq!(sendto(&client, b"x", FAST_OPEN, &to), Ok(1));
    client
}

/// Data in the SYN: the connection is in the queue before it is established, so a thread that waits may get it first, and
/// its queue time is then not known.
pub(super) fn fast_open() {
    const CONNECTIONS: u64 = 20;
    let agent = Agent::start();
    let mut port = 0;
    // Client and server, without cookies, on every listener (Documentation/networking/ip-sysctl.rst).
    in_a_network_of_its_own(&[("tcp_fastopen", "1543")], || {
        let (listener, address) = listener();
        port = address.port();
        let connected = |client: &OwnedFd| {
            SocketAddr::try_from(getsockname(client).expect("connected")).expect("an internet address")
        };
        let check = |accepted: &OwnedFd, client: SocketAddr, truth: &Truth, since: Instant| {
            let upper = since.elapsed();
            let record = record_of(&agent, accepted);
            assert_eq!(record.endpoint("local"), Some(shown(truth.local)), "{record:?}");
            assert_eq!(record.endpoint("peer"), Some(shown(client)), "{record:?}");
            let queued = record.nanos("acceptd.accept.queue_time_ns");
            assert!(queued.is_none_or(|queued| queued <= upper), "{queued:?} of {upper:?}: {record:?}");
            assert_eq!(record.bool("acceptd.accept.verified"), unverified(&record), "{record:?}");
            // Tier 2 makes the cookie when the connection is established.
            let has_cookie = record.text("acceptd.socket.cookie").is_some();
            assert!(has_cookie || unverified(&record).is_some(), "{record:?}");
            if has_cookie {
                assert_tells(&record, truth);
            } else {
                assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(truth.fd)), "{record:?}");
                assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(truth.tid)), "{record:?}");
            }
        };
        let before = counter("TCPFastOpenPassive");
        // Nobody waits: each is established when it is accepted.
        for _ in 0..CONNECTIONS {
            let since = Instant::now();
            let client = fast_open_client(address);
            let accepted = accept(&listener).expect("a connection");
            check(&accepted, connected(&client), &Truth::of(&accepted, &listener), since);
        }
        // A thread waits for each.
        for _ in 0..CONNECTIONS {
            let waits = thread::scope(|scope| {
                let accepting = scope.spawn(|| {
                    let accepted = accept(&listener).expect("a connection");
                    let truth = Truth::of(&accepted, &listener);
                    (accepted, truth)
                });
                let since = Instant::now();
                let client = fast_open_client(address);
                let (accepted, truth) = accepting.join().expect("it accepts");
                (accepted, truth, client, since)
            });
            let (accepted, truth, client, since) = waits;
            check(&accepted, connected(&client), &truth, since);
        }
        assert_eq!(counter("TCPFastOpenPassive") - before, 2 * CONNECTIONS, "every one was a fast open");
    });
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let abandoned = inbox.found("acceptd.listener.abandoned", |record| record.is_of_port(port));
    assert!(abandoned.is_empty(), "all were accepted: {abandoned:?}");
}

/// What `acceptd.accept.verified` is to be: tier 2 takes for proof that it saw the connection be established.
fn unverified(record: &Record) -> Option<bool> {
    let is_proven = record.tier() == Tier::One || record.int("acceptd.accept.queue_time_ns").is_some();
    (!is_proven).then_some(false)
}

/// The kernel keeps nothing of a connection before the last packet of its handshake, so it does not know when that began.
pub(super) fn syn_cookies() {
    const WAIT: Duration = Duration::from_millis(200);
    let agent = Agent::start();
    // 2: always, not only when there are too many (Documentation/networking/ip-sysctl.rst).
    in_a_network_of_its_own(&[("tcp_syncookies", "2")], || {
        let (listener, address) = listener();
        let counted = counter("SyncookiesRecv");
        let before = Instant::now();
        let clients: Vec<_> =
            (0..3).map(|_| TcpStream::connect(address).expect("somebody listens")).collect();
        let connected = Instant::now();
        thread::sleep(WAIT);
        let lower = connected.elapsed();
        let accepted: Vec<_> = clients.iter().map(|_| accept(&listener).expect("queued")).collect();
        let upper = before.elapsed();
        assert_eq!(counter("SyncookiesRecv") - counted, 3, "every one by a cookie");
        for (accepted, client) in accepted.iter().zip(&clients) {
            let record = record_of(&agent, accepted);
            assert_tells(&record, &Truth::of(accepted, &listener));
            assert_eq!(record.endpoint("peer"), Some(shown(client.local_addr().expect("connected"))));
            let queued = record.nanos("acceptd.accept.queue_time_ns").expect("a queue time");
            assert!(lower <= queued && queued <= upper, "{lower:?} <= {queued:?} <= {upper:?}");
            // The kernel has a round-trip time, from time stamps that are no times.
            for absent in ["handshake_time_ns", "rtt_ns", "synack_retransmits"] {
                assert_eq!(record.attributes.get(&format!("acceptd.tcp.{absent}")), None, "{record:?}");
            }
            assert_eq!(record.attributes.get("acceptd.accept.verified"), None, "{record:?}");
        }
    });
    let _ = agent.stop();
}
