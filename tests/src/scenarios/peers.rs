//! `acceptd.peer.*`: which process of this host is at the client's end.

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

use super::support::listener;
use crate::{
    admin::address_of,
    agent::{Agent, binary},
    client_maps::ClientMaps,
    inbox::ACCEPT,
    record::Record,
    wait,
};

/// A child process that is connected to a server.
struct ClientProcess(Child);

impl ClientProcess {
    fn connect(address: &str) -> Self {
        let mut child = Command::new(binary("acceptor"))
            .args(["connect", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line from the client");
        assert_eq!(line, "connected\n");
        Self(child)
    }

    /// Makes the process close its connection and exit. Returns its process id.
    fn finish(mut self) -> i64 {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("waitpid").success());
        i64::from(self.0.id())
    }
}

fn peer(record: &Record) -> (Option<i64>, Option<&str>) {
    (record.int("acceptd.peer.pid"), record.text("acceptd.peer.executable_name"))
}

/// A client in another process, and one in this process, are recorded with process id and executable.
fn over_tcp(listener: &TcpListener, address: SocketAddr) {
    let agent = Agent::start();
    let client = ClientProcess::connect(&address.to_string());
    let accepted = listener.accept().expect("a connection");
    let pid = client.finish();
    drop(accepted);
    // This process is a client, too.
    let own = TcpStream::connect(address).expect("the listener is up");
    drop((listener.accept().expect("a connection"), own));
    let records = agent.inbox.wait_for_accepts(address.port(), 2);
    assert_eq!(peer(&records[0]), (Some(pid), Some("acceptor")));
    let own_name = records[1].resource_text("process.executable.name");
    assert_eq!(peer(&records[1]), (Some(i64::from(std::process::id())), own_name));
    let _ = agent.stop();
}

/// Over IPv4.
pub(super) fn over_ipv4() {
    let (listener, address) = listener();
    over_tcp(&listener, address);
}

/// Over IPv6.
pub(super) fn over_ipv6() {
    let listener = TcpListener::bind("[::1]:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    over_tcp(&listener, address);
}

/// Over a UNIX socket: a client that has exited before the accept is recorded by its process id alone.
pub(super) fn over_a_unix_socket() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("peers.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let path = path.to_str().expect("text");
    let running = ClientProcess::connect(path);
    drop(listener.accept().expect("a connection"));
    let pid = running.finish();
    // This client exits before the accept.
    let exited = ClientProcess::connect(path).finish();
    drop(listener.accept().expect("a connection"));
    let found =
        agent.inbox.wait_for_events(ACCEPT, 2, |record| record.text("network.local.address") == Some(path));
    assert_eq!(peer(&found[0]), (Some(pid), Some("acceptor")));
    assert_eq!(peer(&found[1]), (Some(exited), None));
    let _ = agent.stop();
}

/// A TCP client that connects, closes or resets, and exits before the accept is recorded with id and
/// executable.
pub(super) fn client_exits_before_the_accept() {
    let agent = Agent::start();
    let (listener, address) = listener();
    let pid = ClientProcess::connect(&address.to_string()).finish();
    thread::sleep(Duration::from_millis(100));
    drop(listener.accept().expect("a connection"));
    // This client resets its connection.
    reset(TcpStream::connect(address).expect("the listener is up"));
    drop(listener.accept().expect("a connection"));
    let records = agent.inbox.wait_for_accepts(address.port(), 2);
    assert_eq!(peer(&records[0]), (Some(pid), Some("acceptor")));
    assert_eq!(peer(&records[1]).0, Some(i64::from(std::process::id())));
    let _ = agent.stop();
}

/// A client that connected before the agent started is unknown, and no attribute is made up for it.
pub(super) fn connected_before_the_start() {
    let (listener, address) = listener();
    let client = ClientProcess::connect(&address.to_string());
    let agent = Agent::start();
    drop(listener.accept().expect("a connection"));
    let record = agent.inbox.wait_for_accepts(address.port(), 1).remove(0);
    assert_eq!(peer(&record), (None, None));
    let _ = client.finish();
    let _ = agent.stop();
}

/// However a connection ends, the agent removes its client from the BPF maps (read through bpf(2)).
pub(super) fn client_entries_are_removed() {
    let filtered = listener();
    let mut agent = Agent::with_flags(&[
        "--set",
        "admin.listen=127.0.0.1:0",
        "--set",
        &format!("filter.exclude.ports={}", filtered.1.port()),
    ]);
    let admin = address_of(&mut agent);
    let clients = ClientMaps::from_agent(agent.pid());
    let connect = |to: SocketAddr| {
        let client = TcpStream::connect(to).expect("the listener is up");
        let cookie = socket_cookie(client.as_fd()).expect("SO_COOKIE");
        (client, cookie)
    };
    let wait_until_removed = |how: &str, cookie: u64| {
        wait::until(how, || (clients.maps_with(cookie) == 0).then_some(()));
    };

    let (listener, address) = listener();
    let (client, cookie) = connect(address);
    assert_eq!(clients.maps_with(cookie), 1, "kept until the accept");
    let accepted = listener.accept().expect("a connection");
    wait_until_removed("accepted", cookie);
    drop((accepted, client));

    let (client, cookie) = connect(address);
    drop(client);
    assert_eq!(clients.maps_with(cookie), 1, "the client's close does not end it");
    drop(listener.accept().expect("a connection"));
    wait_until_removed("accepted after the client closed", cookie);

    let (client, cookie) = connect(address);
    reset(client);
    drop(listener.accept().expect("a connection"));
    wait_until_removed("accepted after the client reset", cookie);

    let (client, cookie) = connect(filtered.1);
    drop((filtered.0.accept().expect("a connection"), client));
    wait_until_removed("accepted on an excluded port", cookie);

    let (_client, cookie) = connect(admin);
    wait_until_removed("accepted by the agent itself", cookie);

    let [(_client, first), (client, second)] = [connect(address), connect(address)];
    reset(client);
    drop(listener);
    wait_until_removed("the listener closed", first);
    wait_until_removed("reset, and the listener closed", second);

    let refused = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    rustix::net::connect(&refused, &address).expect_err("a closed listener");
    wait_until_removed("connection refused", socket_cookie(&refused).expect("SO_COOKIE"));

    // The client cannot read its subflow's cookie, so search by process instead.
    let server = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP)).expect("a socket");
    bind(&server, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    listen(&server, 1).expect("bound");
    let at = SocketAddr::try_from(getsockname(&server).expect("bound")).expect("an internet address");
    let client = ClientProcess::connect(&format!("mptcp:{at}"));
    assert_eq!(clients.cookies_of_process(client.0.id()).len(), 1, "the first subflow");
    let accepted = rustix::net::accept(&server).expect("a connection");
    let is_removed = || clients.cookies_of_process(client.0.id()).is_empty().then_some(());
    wait::until("accepted by Multipath TCP", is_removed);
    drop(accepted);
    let _ = client.finish();
    let _ = agent.stop();
}

/// Closes the connection with RST.
fn reset(connection: TcpStream) {
    set_socket_linger(&connection, Some(Duration::ZERO)).expect("setsockopt");
    drop(connection);
}
