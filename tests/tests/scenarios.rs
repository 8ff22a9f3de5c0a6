//! What acceptd reports of real accepts, against what the kernel told the process that accepted.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a test that cannot go on says so and fails")]

#[path = "scenarios/delivery.rs"]
mod delivery;
#[path = "scenarios/processes.rs"]
mod processes;
#[path = "scenarios/sockets.rs"]
mod sockets;
#[path = "scenarios/start.rs"]
mod start;

use std::net::{IpAddr, SocketAddr};

use acceptd_tests::{record::Record, truth::Truth};

/// Holds one record against the truth of its accept, field by field.
fn assert_tells(record: &Record, truth: &Truth) {
    let id = |id: u64| Some(id.to_string());
    let number = |number: u64| i64::try_from(number).ok();
    assert_eq!(record.resource_int("process.pid"), Some(i64::from(truth.pid)), "{record:?}");
    assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(truth.tid)), "{record:?}");
    assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(truth.fd)), "{record:?}");
    assert_eq!(record.int("acceptd.listener.fd"), Some(i64::from(truth.listener_fd)), "{record:?}");
    assert_eq!(record.endpoint("local"), Some(shown(truth.local)), "{record:?}");
    if let Some(peer) = truth.peer {
        assert_eq!(record.endpoint("peer"), Some(shown(peer)), "{record:?}");
    }
    assert_eq!(record.text("acceptd.socket.cookie").map(str::to_owned), id(truth.cookie), "{record:?}");
    assert_eq!(
        record.text("acceptd.listener.cookie").map(str::to_owned),
        id(truth.listener_cookie),
        "{record:?}"
    );
    assert_eq!(record.int("acceptd.socket.inode"), number(truth.inode), "{record:?}");
    assert_eq!(record.int("acceptd.listener.inode"), number(truth.listener_inode), "{record:?}");
    assert_eq!(record.log.event_name, "acceptd.socket.accept");
    assert_eq!(record.log.severity_number, 9);
}

/// An address as a record shows it: an IPv4 connection is IPv4 on any socket.
fn shown(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}
