//! Assertions and small helpers that several scenarios share.

use std::net::{IpAddr, SocketAddr, TcpListener};

use acceptd::{
    bpf::Tier,
    mapping::presence::{Case, differences},
};
use rustix::thread::Pid;
use serde_json::Value as Json;

use crate::{admin, ground_truth::GroundTruth, record::Record, wait};

/// Checks a record field by field: the connection, the thread, and the listener as its system call named it.
pub(super) fn assert_matches_truth(record: &Record, truth: &GroundTruth) {
    assert_connection_matches_truth(record, truth);
    assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(truth.tid)), "{record:?}");
    assert_eq!(record.int("acceptd.listener.fd"), Some(i64::from(truth.listener_fd)), "{record:?}");
    let cookie = truth.listener_cookie.to_string();
    assert_eq!(record.text("acceptd.listener.cookie"), Some(cookie.as_str()), "{record:?}");
    assert_eq!(record.int("acceptd.listener.inode"), i64::try_from(truth.listener_inode).ok(), "{record:?}");
}

/// Checks the part of a record that does not depend on how accept was called (system call or io_uring).
pub(super) fn assert_connection_matches_truth(record: &Record, truth: &GroundTruth) {
    let id = |id: u64| Some(id.to_string());
    let number = |number: u64| i64::try_from(number).ok();
    assert_eq!(record.resource_int("process.pid"), Some(i64::from(truth.pid)), "{record:?}");
    // Tier 1 sees neither io_uring install the descriptor, nor the exit of a call that was entered before the
    // agent started.
    let by_ring = record.text("acceptd.accept.syscall") == Some("io_uring");
    let entered_before_start = !by_ring && record.int("acceptd.accept.blocked_time_ns").is_none();
    let is_unknown = record.tier() == Tier::One && (by_ring || entered_before_start);
    let fd = (!is_unknown).then_some(i64::from(truth.fd));
    assert_eq!(record.int("acceptd.socket.fd"), fd, "{record:?}");
    assert_eq!(record.endpoint("local"), Some(canonical(truth.local)), "{record:?}");
    if let Some(peer) = truth.peer {
        assert_eq!(record.endpoint("peer"), Some(canonical(peer)), "{record:?}");
    }
    assert_eq!(record.text("acceptd.socket.cookie").map(str::to_owned), id(truth.cookie), "{record:?}");
    assert_eq!(record.int("acceptd.socket.inode"), number(truth.inode), "{record:?}");
    assert_eq!(record.log.event_name, "acceptd.socket.accept");
    assert_eq!(record.log.severity_number, 9);
}

/// Checks which attributes a record has and which it lacks, by the presence table of docs/fields.md for
/// `case`.
pub(super) fn assert_presence(record: &Record, case: Case) {
    let differences = differences(record.attributes.keys().map(String::as_str), case, record.tier());
    assert!(differences.is_empty(), "{case:?}: {differences:?}\n{record:?}");
}

/// An address as records have it: an IPv4-mapped IPv6 address becomes IPv4.
pub(super) fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// A TCP listener on a free port of 127.0.0.1, and its address.
pub(super) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// The agent's status, once it is of a time after this call: two rounds of its snapshots.
pub(super) fn status_after_a_snapshot(admin: SocketAddr) -> Json {
    let status = || -> Json { serde_json::from_str(&admin::get(admin, "/status").1).expect("JSON") };
    let uptime = |status: &Json| status["uptime_s"].as_u64().expect("seconds");
    let before = uptime(&status());
    wait::until("two snapshots", || {
        let now = status();
        (uptime(&now) > before + 2).then_some(now)
    })
}

/// The sum of a metric's values that have a label of this value, such as a port, from the Prometheus
/// exposition.
pub(super) fn counted(metrics: &str, name: &str, label: &str) -> u64 {
    let label = format!("\"{label}\"");
    let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(&label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Waits until a thread of this process is blocked in accept or accept4 (`/proc/self/task/TID/syscall`).
pub(super) fn until_in_accept(tid: Pid) {
    const NUMBERS: [&str; 2] = if cfg!(target_arch = "x86_64") { ["43", "288"] } else { ["202", "242"] };
    wait::until("the thread to block in accept", || {
        let call = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).ok()?;
        NUMBERS.contains(&call.split(' ').next()?).then_some(())
    });
}
