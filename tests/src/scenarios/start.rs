//! What was there before the agent.

use std::{
    net::{TcpListener, TcpStream},
    thread,
};

use crate::{agent::Agent, truth::Truth, wait};
use rustix::{net::accept, thread::gettid};

use super::assert_tells;

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
    assert_eq!(records.len(), 1);
    assert_tells(&records[0], &truth);
    assert_eq!(records[0].attributes.get("acceptd.accept.verified"), None);
    assert!(records[0].int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0));
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
    assert_eq!(records.len(), 3);
    for (record, accepted) in records.iter().zip(&accepted) {
        assert_tells(record, &Truth::of(accepted, &listener));
        assert_eq!(record.attributes.get("acceptd.accept.verified"), None, "it was found in the queue");
        assert_eq!(record.int("acceptd.accept.queue_time_ns"), None, "unknown, not 0");
    }
    drop(clients);
    // The ledger's own count is of the whole host: other scenarios' connections may have been queued, too.
    let _ = agent.stop();
}
