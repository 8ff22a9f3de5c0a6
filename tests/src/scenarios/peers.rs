//! Who connected, where that is a process of this host.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::net::UnixListener},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketType, bind, getsockname, ipproto, listen, socket,
    sockopt::{set_socket_linger, socket_cookie},
};

use super::listener;
use crate::{
    agent::{ACCEPT, Agent, binary},
    clients::Clients,
    record::Record,
    wait,
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
    reset(TcpStream::connect(address).expect("somebody listens"));
    drop(listener.accept().expect("a connection"));
    let records = agent.inbox.of_port(address.port(), 2);
    assert_eq!(peer(&records[0]), (Some(pid), Some("acceptor")));
    assert_eq!(peer(&records[1]).0, Some(i64::from(std::process::id())));
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

/// Whatever becomes of a connection, at its end nothing is kept of its client.
pub(super) fn nobody_is_kept_for_longer_than_needed() {
    let filtered = listener();
    let admin = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let agent = Agent::with(&[
        "--set",
        &format!("admin.listen={admin}"),
        "--set",
        &format!("filter.exclude.ports={}", filtered.1.port()),
    ]);
    let clients = Clients::of(agent.pid());
    let connect = |to: SocketAddr| {
        let client = TcpStream::connect(to).expect("somebody listens");
        let cookie = socket_cookie(client.as_fd()).expect("SO_COOKIE");
        (client, cookie)
    };
    let gone = |how: &str, cookie: u64| {
        wait::until(how, || (clients.maps_with(cookie) == 0).then_some(()));
    };

    let (listener, address) = listener();
    let (client, cookie) = connect(address);
    assert_eq!(clients.maps_with(cookie), 1, "it waits to be accepted");
    let accepted = listener.accept().expect("a connection");
    gone("accepted", cookie);
    drop((accepted, client));

    let (client, cookie) = connect(address);
    drop(client);
    assert_eq!(clients.maps_with(cookie), 1, "its end is not the server's");
    drop(listener.accept().expect("a connection"));
    gone("accepted when it was closed already", cookie);

    let (client, cookie) = connect(address);
    reset(client);
    drop(listener.accept().expect("a connection"));
    gone("accepted when it was reset already", cookie);

    let (client, cookie) = connect(filtered.1);
    drop((filtered.0.accept().expect("a connection"), client));
    gone("accepted where it is filtered", cookie);

    let (_client, cookie) = connect(admin);
    gone("accepted by the agent", cookie);

    let [(_client, first), (client, second)] = [connect(address), connect(address)];
    reset(client);
    drop(listener);
    gone("its listener is closed", first);
    gone("reset, and its listener is closed", second);

    let refused = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    rustix::net::connect(&refused, &address).expect_err("nobody listens any more");
    gone("refused", socket_cookie(&refused).expect("SO_COOKIE"));

    // Its subflow has a cookie that it does not tell.
    let server = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP)).expect("a socket");
    bind(&server, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    listen(&server, 1).expect("bound");
    let at = SocketAddr::try_from(getsockname(&server).expect("bound")).expect("an internet address");
    let client = Client::of(&format!("mptcp:{at}"));
    assert_eq!(clients.of_process(client.0.id()).len(), 1, "its first subflow");
    let accepted = rustix::net::accept(&server).expect("a connection");
    let none_of = || clients.of_process(client.0.id()).is_empty().then_some(());
    wait::until("accepted by Multipath TCP", none_of);
    drop(accepted);
    let _ = client.end();
    let _ = agent.stop();
}

/// Ends it with a RST.
fn reset(connection: TcpStream) {
    set_socket_linger(&connection, Some(Duration::ZERO)).expect("an option");
    drop(connection);
}
