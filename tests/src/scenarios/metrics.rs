//! The metrics of listeners, compared with the connections that the test makes and with ss(8).

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with};

use super::support::listener;
use crate::{
    admin,
    agent::Agent,
    inbox::Inbox,
    metrics::{Point, points},
    raw, wait,
};

const ACCEPTS: &str = "acceptd.listener.accepts";
const QUEUE_DURATION: &str = "acceptd.listener.queue.duration";
const LENGTH: &str = "acceptd.listener.queue.length";
const LIMIT: &str = "acceptd.listener.queue.limit";
const OLDEST: &str = "acceptd.listener.queue.oldest_wait";
const OPEN: &str = "acceptd.connection.count";
const CONNECTION_DURATION: &str = "acceptd.connection.duration";

/// Starts an agent that exports its metrics twice a second.
fn measuring(flags: &[&str]) -> Agent {
    let interval = wait::scaled_timeout(Duration::from_millis(500));
    let metrics = format!("--set=metrics.interval={interval}");
    let listeners = format!("--set=listener.interval={interval}");
    Agent::with_flags(&[&["--set=metrics.export=true", metrics.as_str(), listeners.as_str()], flags].concat())
}

/// The data points of this metric and port in the most recent export.
fn last(inbox: &Inbox, name: &str, port: u16) -> Vec<Point> {
    let all = inbox.last_metrics().as_ref().map(points).unwrap_or_default();
    all.into_iter().filter(|point| point.name == name && point.is_on_port(port)).collect()
}

/// Waits until the most recent export has exactly one data point of this metric and port, and it satisfies
/// `is_right`.
fn until(inbox: &Inbox, name: &str, port: u16, is_right: impl Fn(&Point) -> bool) -> Point {
    wait::until_ok(|| match last(inbox, name, port).as_slice() {
        [point] if is_right(point) => Ok(point.clone()),
        other => Err(format!("{name}: {other:?}")),
    })
}

/// Recv-Q and Send-Q of a listener, as ss(8) shows them; `None` if ss is not installed.
fn queue_of(port: u16) -> Option<(f64, f64)> {
    let output = Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Some((*numbers.first()?, *numbers.get(1)?))
}

fn small_listener(backlog: i32) -> (TcpListener, SocketAddr) {
    // CLOEXEC: a program that another scenario starts meanwhile must not inherit the socket and keep it open.
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a socket");
    bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&socket, backlog).expect("it listens");
    let address = SocketAddr::try_from(getsockname(&socket).expect("a name")).expect("IPv4");
    (socket.into(), address)
}

/// Accepts, failures by errno, queue durations, open connections and connection durations match what the test
/// did. The attributes name the listener, and none has the cardinality of a process or a connection.
pub(super) fn of_a_listener() {
    const ACCEPTED: u32 = 30;
    const KEPT: u32 = 4;
    const SLEPT: Duration = Duration::from_millis(200);
    let agent = measuring(&[]);
    let (listener, address) = listener();
    let port = address.port();
    let mut kept = Vec::new();
    for number in 0..ACCEPTED {
        let client = TcpStream::connect(address).expect("the listener is up");
        if number == 0 {
            thread::sleep(SLEPT);
        }
        let (accepted, _) = listener.accept().expect("a connection");
        if number < KEPT {
            kept.push((client, accepted));
        }
    }
    for _ in 0..3 {
        drop(TcpStream::connect(address).expect("the listener is up"));
        raw::accept_with_a_bad_address(&listener).expect_err("an unmapped address");
    }
    let inbox = agent.inbox.clone();
    let with_outcome = |outcome: &'static str| {
        let inbox = inbox.clone();
        move || {
            last(&inbox, ACCEPTS, port)
                .into_iter()
                .find(|point| point.text("acceptd.accept.outcome") == Some(outcome))
        }
    };
    let (accepted, failed) = (with_outcome("accepted"), with_outcome("failed"));
    let all = f64::from(ACCEPTED);
    wait::until_ok(|| match (accepted(), failed()) {
        (Some(accepted), Some(failed)) if accepted.value >= all && failed.value >= 3.0 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let (accepted, failed) = (accepted().expect("accepts"), failed().expect("failures"));
    assert_eq!((accepted.value, failed.value, failed.text("error.type")), (all, 3.0, Some("EFAULT")));
    assert_eq!(accepted.text("network.local.address"), Some("127.0.0.1"));
    assert_eq!(accepted.text("network.transport"), Some("tcp"));
    assert_eq!(accepted.text("network.type"), Some("ipv4"));
    let service = accepted.text("acceptd.listener.service").expect("a service");
    let executable = accepted.text("process.executable.name").expect("an executable");
    assert_eq!(service, format!("unknown_service:{executable}"));
    assert!(std::env::current_exe().expect("a path").ends_with(executable), "{executable}");
    let never = ["process.pid", "acceptd.listener.inode", "network.peer.address", "acceptd.socket.cookie"];
    assert!(never.iter().all(|key| !accepted.attributes.contains_key(*key)), "{accepted:?}");
    let waited = until(&inbox, QUEUE_DURATION, port, |point| point.count == Some(u64::from(ACCEPTED)));
    assert!(waited.value >= SLEPT.as_secs_f64() && waited.value < 60.0, "{waited:?}");
    let closed = u64::from(ACCEPTED - KEPT);
    let open = until(&inbox, OPEN, port, |point| point.value <= f64::from(KEPT));
    assert!((open.value - f64::from(KEPT)).abs() < 0.1, "{open:?}");
    let before_close = until(&inbox, CONNECTION_DURATION, port, |point| point.count == Some(closed));
    thread::sleep(SLEPT);
    drop(kept);
    let _ = until(&inbox, OPEN, port, |point| point.value < 0.1);
    let later = until(&inbox, CONNECTION_DURATION, port, |point| point.count == Some(u64::from(ACCEPTED)));
    assert!(
        later.value - before_close.value >= f64::from(KEPT) * SLEPT.as_secs_f64(),
        "{before_close:?} {later:?}"
    );
    let _ = agent.stop();
}

/// A listener that accepts nothing has queue length and limit as ss(8) shows them, and an oldest wait that
/// grows with time. Both return to 0 once it accepts, and a closed listener is no longer exported.
pub(super) fn of_a_server_that_hangs() {
    let agent = measuring(&[]);
    let (listener, address) = small_listener(7);
    let port = address.port();
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).expect("room in the queue")).collect();
    let inbox = agent.inbox.clone();
    let length = until(&inbox, LENGTH, port, |point| point.value >= 3.0);
    let limit = until(&inbox, LIMIT, port, |point| point.value > 0.0);
    let (queued, most) = queue_of(port).unwrap_or((3.0, 7.0));
    assert_eq!((length.value, limit.value), (queued, most));
    let first = until(&inbox, OLDEST, port, |point| point.value > 0.5);
    let later = until(&inbox, OLDEST, port, |point| point.value > first.value + 0.5);
    let between = Duration::from_nanos(later.times.1 - first.times.1).as_secs_f64();
    assert!((later.value - first.value - between).abs() < 2.0, "{first:?} {later:?}");
    drop(clients);
    for _ in 0..3 {
        drop(listener.accept().expect("a connection"));
    }
    let _ = until(&inbox, OLDEST, port, |point| point.value < 0.1);
    let _ = until(&inbox, LENGTH, port, |point| point.value < 0.1);
    // A closed listener is no longer exported.
    drop(listener);
    wait::until("an export without the listener", || {
        let last = inbox.last_metrics().as_ref().map(points).unwrap_or_default();
        (!last.is_empty() && !last.iter().any(|point| point.is_on_port(port))).then_some(())
    });
    let _ = agent.stop();
}

/// Overflows and abandoned connections are counted, also with their events switched off.
pub(super) fn of_connections_never_accepted() {
    let agent = measuring(&["--set=events.abandoned=false", "--set=events.overflow=false"]);
    let (listener, address) = small_listener(1);
    let port = address.port();
    let waiting: Vec<_> = (0..2).map(|_| TcpStream::connect(address).expect("room in the queue")).collect();
    // The queue is full: the kernel drops this client's SYN, or its final ACK.
    let more = TcpStream::connect_timeout(&address, Duration::from_millis(500));
    let inbox = agent.inbox.clone();
    let overflows = until(&inbox, "acceptd.listener.overflows", port, |point| point.value >= 1.0);
    assert!(overflows.value < 10.0, "{overflows:?}");
    drop((listener, waiting, more));
    let abandoned = until(&inbox, "acceptd.listener.abandoned_connections", port, |point| point.value >= 2.0);
    assert!(abandoned.value < 4.0, "{abandoned:?}");
    let _ = agent.stop();
}

/// With delta temporality the exports add up to what happened, their intervals do not overlap, and points
/// without data are absent.
pub(super) fn delta_temporality() {
    let agent = measuring(&["--set=metrics.temporality=delta"]);
    let (listener, address) = listener();
    let port = address.port();
    let inbox = agent.inbox.clone();
    let points_named = |name: &'static str, inbox: &Inbox| -> Vec<Point> {
        let requests = inbox.metrics();
        requests
            .iter()
            .flat_map(points)
            .filter(|point| point.name == name && point.is_on_port(port))
            .collect()
    };
    for round in 1..=3_u64 {
        for _ in 0..10 {
            let client = TcpStream::connect(address).expect("the listener is up");
            drop((listener.accept().expect("a connection"), client));
        }
        wait::until_ok(|| {
            let waited = points_named(QUEUE_DURATION, &inbox);
            let count: u64 = waited.iter().filter_map(|point| point.count).sum();
            if count >= 10 * round { Ok(()) } else { Err(format!("{waited:?}")) }
        });
    }
    let _ = agent.stop();
    for name in [QUEUE_DURATION, CONNECTION_DURATION] {
        let found = points_named(name, &inbox);
        assert_eq!(found.iter().filter_map(|point| point.count).sum::<u64>(), 30, "{name}: {found:?}");
        assert!(found.iter().all(|point| point.is_delta && point.count > Some(0)), "{found:?}");
        assert!(found.windows(2).all(|two| two[1].times.0 >= two[0].times.1), "{found:?}");
    }
    let accepts = points_named(ACCEPTS, &inbox);
    assert!(accepts.iter().all(|point| point.is_delta), "{accepts:?}");
    assert!((accepts.iter().map(|point| point.value).sum::<f64>() - 30.0).abs() < 0.1, "{accepts:?}");
}

/// `/metrics` has the same values in Prometheus' text format, with 21 cumulative buckets for a histogram.
pub(super) fn prometheus_exposition() {
    let mut agent = Agent::with_flags(&["--set=admin.listen=127.0.0.1:0", "--set=listener.interval=500ms"]);
    let admin = admin::address_of(&mut agent);
    let (listener, address) = listener();
    for _ in 0..5 {
        let client = TcpStream::connect(address).expect("the listener is up");
        drop((listener.accept().expect("a connection"), client));
    }
    let port = format!("network_local_port=\"{}\"", address.port());
    let lines = wait::until_ok(|| {
        let (_, text) = admin::get(admin, "/metrics");
        let lines: Vec<String> =
            text.lines().filter(|line| line.contains(&port)).map(str::to_owned).collect();
        let has =
            |start: &str, end: &str| lines.iter().any(|line| line.starts_with(start) && line.ends_with(end));
        let all = has("acceptd_listener_accepts_total{", " 5")
            && has("acceptd_listener_queue_duration_seconds_count{", " 5")
            && has("acceptd_connection_duration_seconds_count{", " 5")
            && has("acceptd_connection_count{", " 0");
        if all { Ok(lines) } else { Err(lines.join("\n")) }
    });
    let buckets: Vec<f64> = lines
        .iter()
        .filter(|line| line.starts_with("acceptd_listener_queue_duration_seconds_bucket{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert_eq!(buckets.len(), 21, "{lines:?}");
    assert!(buckets.is_sorted() && buckets.last() == Some(&5.0), "{buckets:?}");
    assert!(lines.iter().any(|line| line.contains("le=\"0.0001220703125\"")), "{lines:?}");
    let _ = agent.stop();
}
