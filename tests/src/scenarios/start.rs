//! What was there before the agent.

use std::{
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::{agent::Agent, truth::Truth, wait};
use rustix::{net::accept, process::Pid, thread::gettid};

use super::assert_tells;

fn until_in_accept(thread: Pid) {
    wait::until("the thread sleeps in accept", || {
        let call = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
        // 43: accept, x86_64; 202: accept, arm64
        (call.starts_with("43 ") || call.starts_with("202 ")).then_some(())
    });
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
    until_in_accept(tid);
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

/// Another agent, or any other tracer, attaches to the same functions and leaves again while a thread waits in accept: then
/// the kernel runs no exit program for that thread's call. The thread's last accept is told when the thread ends, another
/// one when it accepts again.
pub(super) fn another_tracer_comes_and_goes() {
    let agent = Agent::start();
    for accepts in [1, 2] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (send, receive) = std::sync::mpsc::channel();
        let acceptor = thread::spawn(move || {
            send.send(gettid()).expect("the test waits");
            let accepted: Vec<_> = (0..accepts).map(|_| accept(&listener).expect("a connection")).collect();
            accepted.iter().map(|accepted| Truth::of(accepted, &listener)).collect::<Vec<_>>()
        });
        until_in_accept(receive.recv().expect("the thread says"));
        // Long enough for the backstop to keep what it knows.
        thread::sleep(Duration::from_millis(200));
        let _ = Agent::start().stop();
        let clients: Vec<_> = (0..accepts)
            .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("somebody listens"))
            .collect();
        let truths = acceptor.join().expect("it accepts");
        let records = agent.inbox.of_port(port, accepts);
        assert_eq!(records.len(), accepts, "each once");
        for (record, truth) in records.iter().zip(&truths) {
            assert_eq!(record.text("acceptd.socket.cookie"), Some(truth.cookie.to_string().as_str()));
            assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(truth.tid)));
            assert_eq!(record.int("acceptd.listener.fd"), Some(i64::from(truth.listener_fd)));
            assert!(record.int("acceptd.accept.queue_time_ns").is_some(), "{record:?}");
        }
        drop(clients);
    }
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
