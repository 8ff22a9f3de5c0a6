//! What was there before the agent.

use std::{
    net::{TcpListener, TcpStream},
    thread,
};

use crate::{agent::Agent, truth::Truth, wait};
use rustix::{net::accept, thread::gettid};

use super::{assert_tells, shown};

/// The listener's cookie is not known to the agent until the application asks for it: only the rest is compared.
fn assert_tells_but_the_listeners_cookie(record: &crate::record::Record, truth: &Truth) {
    let mut truth = truth.clone();
    truth.listener_cookie =
        record.text("acceptd.listener.cookie").and_then(|cookie| cookie.parse().ok()).unwrap_or(0);
    let mut record = record.clone();
    record.attributes.entry("acceptd.listener.cookie".to_owned()).or_insert_with(|| {
        opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue("0".to_owned())
    });
    assert_tells(&record, &truth);
}

pub(super) fn a_thread_that_already_waits_in_accept() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (send, receive) = std::sync::mpsc::channel();
    let acceptor = thread::spawn(move || {
        send.send(gettid()).expect("the test waits");
        let accepted = accept(&listener).expect("a connection");
        Truth::of(&accepted, &listener)
    });
    let tid = receive.recv().expect("the thread says");
    wait::until("the thread sleeps in accept", || {
        let call = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).ok()?;
        // 43: accept, x86_64; 202: accept, arm64
        (call.starts_with("43 ") || call.starts_with("202 ")).then_some(())
    });
    let agent = Agent::start();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let truth = acceptor.join().expect("it accepts");
    let records = agent.inbox.of_port(port, 1);
    assert_tells_but_the_listeners_cookie(&records[0], &truth);
    assert_eq!(records[0].attributes.get("acceptd.accept.verified"), None);
    let _ = agent.stop();
}

pub(super) fn connections_that_were_already_queued() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let clients: Vec<_> =
        (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a listener")).collect();
    let agent = Agent::start();
    let accepted: Vec<_> = clients.iter().map(|_| accept(&listener).expect("queued")).collect();
    let records = agent.inbox.of_port(port, 3);
    for (record, (client, accepted)) in records.iter().zip(clients.iter().zip(&accepted)) {
        let truth = Truth::of(accepted, &listener);
        assert_eq!(record.resource_int("process.pid"), Some(i64::from(truth.pid)));
        assert_eq!(record.int("acceptd.socket.fd"), Some(i64::from(truth.fd)));
        assert_eq!(record.endpoint("local"), Some(shown(truth.local)));
        assert_eq!(record.endpoint("peer"), Some(shown(client.local_addr().expect("connected"))));
        assert_eq!(record.bool("acceptd.accept.verified"), Some(false), "nothing proves it");
        assert_eq!(record.int("acceptd.accept.queue_time_ns"), None, "unknown, not 0");
    }
    let ledger = agent.stop();
    let unverified = &ledger["capture"]["unverified"];
    let count = |reason: &str| unverified[reason].as_u64().unwrap_or_default();
    assert!(count("not_pending") + count("no_cookie") >= 3, "{ledger}");
}
