//! The agent starts and stops while clients connect: nothing that was accepted is called abandoned, and what
//! is accepted before the agent says that it stops is recorded or counted.

use std::{
    collections::BTreeSet,
    net::TcpStream,
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::net::{accept, sockopt::socket_cookie};

use super::support::{counted, listener, status_after_a_snapshot};
use crate::{
    admin,
    agent::{self, Agent},
    clients::{Client, Pace},
    inbox::ACCEPT,
    record::Record,
    servers::Servers,
    wait,
};

const ABANDONED: &str = "acceptd.listener.abandoned";
const ABANDONED_METRIC: &str = "acceptd_listener_abandoned_connections";
const LOST: &str = "acceptd.events.lost";
const STOPPED: &str = "acceptd.agent.stopped";

/// How often a scenario starts or stops its agent.
const TIMES: usize = 5;

/// See [`start_repeatedly`].
pub(super) fn starts() {
    let _ = start_repeatedly(TIMES);
}

/// The agent is started again and again while clients connect, over TCP and UNIX sockets, to servers that
/// accept at once and to one whose queue is never empty for long. Every connection is accepted, so no record,
/// no metric and no span says otherwise, also with a filter that no server passes. Returns how many accepts
/// were recorded.
///
/// # Panics
/// If one of them does.
#[must_use]
pub fn start_repeatedly(times: usize) -> usize {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let ((quick, quick_address), (slow, slow_address)) = (listener(), listener());
    let unix = UnixListener::bind(&path).expect("an unused path");
    let rest = Duration::from_secs(1) / wait::scaled_rate(100);
    let pause = (rest * 4).as_millis().to_string();
    let _servers = [
        Servers::start(2, &quick, &["hold", "16", "0"]),
        Servers::start(1, &unix, &["hold", "16", "0"]),
        Servers::start(1, &slow, &["hold", "16", &pause]),
    ];
    let [steady, bursts] = [(1, rest), (8, rest * 40)].map(|(burst, rest)| Pace { burst, rest, held: 16 });
    let unix_path = path.clone();
    let clients = [
        Client::start(steady, move || TcpStream::connect(quick_address).expect("it listens")),
        Client::start(steady, move || UnixStream::connect(&unix_path).expect("it listens")),
        Client::start(bursts, move || TcpStream::connect(slow_address).expect("it listens")),
    ];
    let ports = [quick_address.port(), slow_address.port()];
    let is_ours = |record: &Record| {
        ports.iter().any(|port| record.is_on_port(*port))
            || record.text("network.local.address") == path.to_str()
    };
    let (mut accepts, mut abandoned) = (0, Vec::new());
    for start in 0..times {
        let filter: &[&str] = if start % 2 == 1 { &["--set", "filter.comms=nobody"] } else { &[] };
        let flags = ["admin.listen=127.0.0.1:0", "traces.export=true", "traces.sampler=always_on"];
        let flags: Vec<_> = flags.into_iter().flat_map(|setting| ["--set", setting]).collect();
        let mut agent = Agent::with_flags(&[&flags[..], filter].concat());
        let admin = admin::address_of(&mut agent);
        for client in &clients {
            client.wait_until_renewed();
        }
        _ = status_after_a_snapshot(admin);
        let metrics = admin::get(admin, "/metrics").1;
        let inbox = agent.inbox.clone();
        let _ = inbox.settled_events(ACCEPT, usize::from(filter.is_empty()), is_ours);
        let ledger = agent.terminate();
        _ = agent::take_missed_runs();
        let records = inbox.events(ABANDONED, |record| is_ours(record) || !filter.is_empty());
        let labels = [ports[0].to_string(), ports[1].to_string(), path.display().to_string()];
        let counts = labels.map(|label| counted(&metrics, ABANDONED_METRIC, &label));
        let accepted = inbox.events(ACCEPT, |_| true);
        let traces: BTreeSet<_> = accepted.iter().map(|record| record.log.trace_id.as_slice()).collect();
        // A slow machine may not deliver everything before the agent exits.
        let is_whole = ledger["export"]["acknowledged"] == ledger["capture"]["records"];
        let spans = inbox
            .spans()
            .into_iter()
            .filter(|span| is_whole && !traces.contains(span.span.trace_id.as_slice()));
        let spans: Vec<_> = spans.collect();
        accepts += accepted.len();
        println!(
            "start {start}: {} accepts, {} abandoned, {counts:?} by metric, {} spans without an accept{}",
            accepted.len(),
            records.len(),
            spans.len(),
            if is_whole { "" } else { ", not all delivered" }
        );
        assert!(accepted.is_empty() != filter.is_empty(), "the filter passes nothing, and only the filter");
        abandoned.extend(records.iter().map(|record| format!("{start}: {record:?}")));
        abandoned.extend(
            counts.iter().filter(|count| **count > 0).map(|count| format!("{start}: {count} by metric")),
        );
        abandoned.extend(spans.iter().map(|span| format!("{start}: {span:?}")));
    }
    let count = abandoned.len();
    assert_eq!(count, 0, "{:?}", abandoned.first());
    accepts
}

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_nanos()).expect("before 2554")
}

/// One accept by the scenario's server: the cookie of its socket, and when accept had returned.
type Accepted = (u64, u64);

/// The agent is stopped while a client connects every 50 ms. Its last words name the time until which it
/// captured; each accept before that is in a record, or is reported as lost. Later ones may have a record.
pub(super) fn stops() {
    for stop in 0..TIMES {
        let agent = Agent::start();
        let (listener, address) = listener();
        let accepted: Arc<Mutex<Vec<Accepted>>> = Arc::default();
        let ends = Arc::new(AtomicBool::new(false));
        let (log, end) = (Arc::clone(&accepted), Arc::clone(&ends));
        let server = thread::spawn(move || {
            let mut last = None;
            while !end.load(Ordering::Relaxed) {
                let connection = accept(&listener).expect("a connection");
                let at = now();
                let cookie = socket_cookie(&connection).expect("SO_COOKIE");
                log.lock().unwrap_or_else(PoisonError::into_inner).push((cookie, at));
                last = Some(connection);
            }
            drop(last);
        });
        let pace = Pace { burst: 1, rest: Duration::from_millis(50), held: 4 };
        let client = Client::start(pace, move || TcpStream::connect(address).expect("it listens"));
        let on_port = |record: &Record| record.is_on_port(address.port());
        let _ = agent.inbox.wait_for_events(ACCEPT, 5, on_port);
        let inbox = agent.inbox.clone();
        let ledger = agent.stop();
        _ = agent::take_missed_runs();
        // The server accepts some more, which the agent cannot see.
        client.wait_until_renewed();
        ends.store(true, Ordering::Relaxed);
        server.join().expect("the server ends with its next connection");
        drop(client);
        let stopped = inbox.events(STOPPED, |_| true).remove(0).log.time_unix_nano;
        let accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let records = inbox.events(ACCEPT, on_port);
        let recorded: BTreeSet<u64> =
            records.iter().filter_map(|record| record.text("acceptd.socket.cookie")?.parse().ok()).collect();
        let before: Vec<_> = accepted.iter().filter(|(_, at)| *at < stopped).collect();
        let missing = before.iter().filter(|(cookie, _)| !recorded.contains(cookie)).count();
        let told: i64 =
            inbox.events(LOST, |_| true).iter().filter_map(|record| record.int("acceptd.loss.count")).sum();
        let abandoned = inbox.events(ABANDONED, on_port).len();
        println!(
            "stop {stop}: {} accepts, {} of them before the last words; {} records, {missing} missing, {told} told as lost, {abandoned} abandoned",
            accepted.len(),
            before.len(),
            records.len()
        );
        assert_eq!(abandoned, 0, "each was accepted: {ledger}");
        assert!(
            missing <= usize::try_from(told).expect("a count"),
            "{missing} accepts are missing: {ledger}"
        );
    }
}
