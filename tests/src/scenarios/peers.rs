//! Who connected, where that is a process of this host.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

use super::listener;
use crate::{
    agent::{ACCEPT, Agent, binary},
    record::Record,
};

/// A process that is connected.
struct Client(Child);

impl Client {
    fn of(address: &str) -> Self {
        let mut child = Command::new(binary("acceptor"))
            .args(["connect", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it speaks");
        assert_eq!(line, "connected\n");
        Self(child)
    }

    /// Ends it; its process id.
    fn end(mut self) -> i64 {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("a child").success());
        i64::from(self.0.id())
    }
}

fn peer(record: &Record) -> (Option<i64>, Option<&str>) {
    (record.int("acceptd.peer.pid"), record.text("acceptd.peer.executable_name"))
}

fn over_tcp(listener: &TcpListener, address: SocketAddr) {
    let agent = Agent::start();
    let client = Client::of(&address.to_string());
    let accepted = listener.accept().expect("a connection");
    let pid = client.end();
    drop(accepted);
    // This process, too.
    let own = TcpStream::connect(address).expect("somebody listens");
    drop((listener.accept().expect("a connection"), own));
    let records = agent.inbox.of_port(address.port(), 2);
    assert_eq!(peer(&records[0]), (Some(pid), Some("acceptor")));
    let itself = records[1].resource_text("process.executable.name");
    assert_eq!(peer(&records[1]), (Some(i64::from(std::process::id())), itself));
    let _ = agent.stop();
}

pub(super) fn over_ipv4() {
    let (listener, address) = listener();
    over_tcp(&listener, address);
}

pub(super) fn over_ipv6() {
    let listener = TcpListener::bind("[::1]:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    over_tcp(&listener, address);
}

pub(super) fn over_a_unix_socket() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("peers.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let path = path.to_str().expect("text");
    let there = Client::of(path);
    drop(listener.accept().expect("a connection"));
    let pid = there.end();
    // One that is gone is known by its number.
    let gone = Client::of(path).end();
    drop(listener.accept().expect("a connection"));
    let found = agent.inbox.of_event(ACCEPT, 2, |record| record.text("network.local.address") == Some(path));
    assert_eq!(peer(&found[0]), (Some(pid), Some("acceptor")));
    assert_eq!(peer(&found[1]), (Some(gone), None));
    let _ = agent.stop();
}

/// It connected, closed, and ended, all while the server slept.
pub(super) fn who_is_gone_before_the_accept() {
    let agent = Agent::start();
    let (listener, address) = listener();
    let pid = Client::of(&address.to_string()).end();
    thread::sleep(Duration::from_millis(100));
    drop(listener.accept().expect("a connection"));
    // And one that resets it.
    let own = TcpStream::connect(address).expect("somebody listens");
    set_socket_linger(&own, Some(Duration::ZERO)).expect("an option");
    drop(own);
    drop(listener.accept().expect("a connection"));
    let records = agent.inbox.of_port(address.port(), 2);
    assert_eq!(peer(&records[0]), (Some(pid), Some("acceptor")));
    let mine = i64::from(std::process::id());
    // The kernel forgets the address of a peer that reset it.
    assert!([None, Some(mine)].contains(&peer(&records[1]).0), "{:?}", records[1]);
    let _ = agent.stop();
}

/// Nothing is guessed.
pub(super) fn connected_before_the_start() {
    let (listener, address) = listener();
    let client = Client::of(&address.to_string());
    let agent = Agent::start();
    drop(listener.accept().expect("a connection"));
    let record = agent.inbox.of_port(address.port(), 1).remove(0);
    assert_eq!(peer(&record), (None, None));
    let _ = client.end();
    let _ = agent.stop();
}
