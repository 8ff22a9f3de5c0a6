//! Kernels that preempt tasks inside of programs: such a program does not run for any other task of that CPU
//! until the preempted one runs on. Each accept has a complete record all the same, or is reported as lost.

use std::{
    collections::BTreeSet,
    fmt,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
};

use acceptd::{
    bpf::Tier,
    mapping::presence::{Case, differences},
};
use serde_json::Value as Json;

use super::support::{counted, listener, status_after_a_snapshot};
use crate::{
    admin,
    agent::{self, Agent, tier},
    inbox::ACCEPT,
    record::Record,
    servers::{Server, Servers, unused_address},
    skipped::KernelSkips,
};

const ABANDONED: &str = "acceptd.listener.abandoned";
const ABANDONED_METRIC: &str = "acceptd_listener_abandoned_connections";
/// Most accepts that may be missing, even if they are reported as lost.
const FEW: usize = 20;

const LOST: &str = "acceptd.events.lost";

/// How many processes accept on the listener.
const WORKERS: usize = 2;
/// How many clients connect at the same time.
const CLIENTS: usize = 40;
/// How many connections each client makes, one after the other.
const CONNECTIONS: usize = 25;
const ALL: usize = CLIENTS * CONNECTIONS;

/// The request of a client, and how many bytes the server answers.
#[derive(Clone, Copy)]
struct Exchange {
    request: &'static [u8],
    /// If 0, the answer ends with the connection.
    answer: usize,
}

/// Two processes accept on one listener, and forty clients connect to it as fast as they can. On one CPU the
/// kernel then preempts tasks inside of programs, if it does so at all (tests/kernels.toml boots such
/// machines). In tier 1 each accept has a record with every attribute; in tier 2 each accept has a record or
/// is reported as lost. In both, nothing that was accepted is called abandoned, and a loss degrades the
/// status.
pub(super) fn two_workers_and_forty_clients() {
    let (listener, address) = listener();
    contend(address, Exchange { request: b"?", answer: 1 }, || {
        Servers::start(WORKERS, &listener, &["serve"])
    });
}

/// The same with two workers of nginx.
#[cfg(target_arch = "x86_64")]
pub(super) fn nginx() {
    let address = unused_address();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {root};"))
        .concat();
    let settings = format!(
        "daemon off; user root; worker_processes {WORKERS}; pid {root}/pid; error_log stderr; \
         events {{ worker_connections 256; }} \
         http {{ access_log off; {temporary} server {{ listen {address}; return 204; }} }}"
    );
    let config = folder.path().join("nginx.conf");
    std::fs::write(&config, settings).expect("the folder is writable");
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(folder.path()).arg("-c").arg(config).args(["-e", "stderr"]);
    let exchange = Exchange { request: b"GET / HTTP/1.0\r\n\r\n", answer: 0 };
    contend(address, exchange, || Server::start(nginx, address));
}

/// The same with Redis, which has one thread that accepts.
#[cfg(target_arch = "x86_64")]
pub(super) fn redis() {
    let address = unused_address();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut redis = Command::new("redis-server");
    redis.args(["--bind", "127.0.0.1", "--save", "", "--port", &address.port().to_string()]);
    redis.arg("--dir").arg(folder.path());
    let exchange = Exchange { request: b"PING\r\n", answer: b"+PONG\r\n".len() };
    contend(address, exchange, || Server::start(redis, address));
}

/// Starts an agent, then the server, then the clients; and checks what the agent says.
fn contend<S>(address: SocketAddr, exchange: Exchange, start: impl FnOnce() -> S) {
    let mut agent = Agent::with_flags(&["--set", "admin.listen=127.0.0.1:0"]);
    let admin = admin::address_of(&mut agent);
    // After the agent: a call that it did not see begin has no descriptor in tier 1.
    let server = start();
    connect_all(address, exchange);
    let on_port = |record: &Record| record.is_on_port(address.port());
    let arrived = agent.inbox.settled_events(ACCEPT, ALL, on_port).len();
    let status = status_after_a_snapshot(admin);
    let metrics = admin::get(admin, "/metrics").1;
    let skipped = KernelSkips::of_loaded_programs();
    drop(server);
    let tier = tier().number();
    println!("preemption {tier}: {arrived} records arrived; runs that the kernel skipped: {skipped}");
    println!("preemption {tier}: {} {}", status["state"], status["reasons"]);
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    // A failure is final, although the kernel skipped runs: that is what this scenario is about.
    _ = agent::take_missed_runs();
    let told =
        |record: &Record| record.int("acceptd.loss.count").and_then(|count| usize::try_from(count).ok());
    let seen = Seen {
        records: inbox.events(ACCEPT, on_port),
        lost: inbox.events(LOST, |_| true).iter().filter_map(told).sum(),
        abandoned: inbox.events(ABANDONED, on_port).len(),
        abandoned_by_metric: counted(&metrics, ABANDONED_METRIC, &address.port().to_string()),
    };
    println!("preemption {tier}: {seen}; skipped {}", ledger["hook_missed"]);
    seen.check(&status, &ledger);
}

/// The agent's statements about the connections.
struct Seen {
    records: Vec<Record>,
    /// Events reported as lost, of any reason.
    lost: usize,
    abandoned: usize,
    abandoned_by_metric: u64,
}

impl Seen {
    /// The number of records without this attribute.
    fn without(&self, key: &str) -> usize {
        self.records.iter().filter(|record| !record.attributes.contains_key(key)).count()
    }

    fn check(&self, status: &Json, ledger: &Json) {
        let cookies: BTreeSet<_> =
            self.records.iter().filter_map(|record| record.text("acceptd.socket.cookie")).collect();
        let without_cookie = self.without("acceptd.socket.cookie");
        assert_eq!(cookies.len() + without_cookie, self.records.len(), "an accept has two records");
        assert_eq!(self.abandoned, 0, "every connection was accepted: {ledger}");
        assert_eq!(self.abandoned_by_metric, 0, "every connection was accepted: {ledger}");
        assert!(self.records.len() <= ALL, "more records than accepts: {self}");
        assert!(self.records.len() + self.lost >= ALL, "accepts are missing and not told as lost: {self}");
        // The reported number is only a bound, so it may not hide that nearly all are captured.
        assert!(self.records.len() + FEW >= ALL, "too many accepts are missing: {self}");
        let state = if self.lost == 0 { "ok" } else { "degraded" };
        assert_eq!(status["state"], state, "a loss degrades the status, and nothing else does: {status}");
        if tier() == Tier::One {
            assert_eq!(self.records.len(), ALL, "{ledger}");
            for record in &self.records {
                let keys = record.attributes.keys().map(String::as_str);
                let mut differences = differences(keys, Case::Tcp, Tier::One);
                if record.int("acceptd.tcp.synack_retransmits").is_some_and(|count| count > 0) {
                    // On a slow machine. Such a handshake has no round-trip time.
                    differences.retain(|difference| difference != "acceptd.tcp.rtt_ns is absent");
                }
                assert!(differences.is_empty(), "{differences:?} {self}\n{record:?}");
            }
            // Only inet_sock_set_state sees who connects.
            let skipped = ledger["hook_missed"]["inet_sock_set_state"].as_u64().unwrap_or_default();
            assert!(self.without("acceptd.peer.pid") as u64 <= skipped, "{self}");
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unverified = self
            .records
            .iter()
            .filter(|record| record.bool("acceptd.accept.verified") == Some(false))
            .count();
        write!(out, "{} of {ALL} records, {} told as lost", self.records.len(), self.lost)?;
        write!(out, ", {} and {} by metric abandoned", self.abandoned, self.abandoned_by_metric)?;
        write!(out, ", {unverified} unverified; without")?;
        for (name, key) in [
            ("queue time", "acceptd.accept.queue_time_ns"),
            ("handshake", "acceptd.tcp.handshake_time_ns"),
            ("peer process", "acceptd.peer.pid"),
            ("peer", "network.peer.address"),
            ("fd", "acceptd.socket.fd"),
            ("listener", "acceptd.listener.cookie"),
            ("blocked time", "acceptd.accept.blocked_time_ns"),
        ] {
            write!(out, " {name} {}", self.without(key))?;
        }
        Ok(())
    }
}

/// Makes every connection. Each ends after the server's answer, so that it was accepted.
fn connect_all(address: SocketAddr, Exchange { request, answer }: Exchange) {
    let client = || {
        for _ in 0..CONNECTIONS {
            let mut connection = TcpStream::connect(address).expect("the listener is up");
            connection.write_all(request).expect("the server reads");
            let mut answered = vec![0; answer];
            let end = match answer {
                0 => connection.read_to_end(&mut answered).map(|_| ()),
                _ => connection.read_exact(&mut answered),
            };
            end.expect("the server answers");
            assert!(!answered.is_empty(), "the server answers");
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(client);
        }
    });
}
