//! Runs the roles as the demo does: what a server prints matches what its clients know.
#![expect(clippy::expect_used, clippy::panic, reason = "a failed expectation panics")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// A running role, and its output.
struct Role {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Role {
    /// Starts a role with this limit of open files.
    fn start(limit: u32, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n $0 && exec \"$@\"", &limit.to_string(), env!("CARGO_BIN_EXE_workload")]);
        let mut child = shell.args(arguments).stdout(Stdio::piped()).spawn().expect("sh");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("UTF-8");
        line.trim_end().to_owned()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // The process may have exited already; the test then fails with its own message.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

fn connect(address: &str) -> TcpStream {
    let started = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) if started.elapsed() > DEADLINE => panic!("{address}: {error}"),
            Err(_) => sleep(Duration::from_millis(10)),
        }
    }
}

#[test]
fn a_server_names_itself_and_both_ends() {
    for name in ["fast", "slow", "crowded"] {
        let address = free_address();
        let mut server = Role::start(64, &[name, &address]);
        let mut client = connect(&address);
        let own = client.local_addr().expect("it is connected");
        assert_eq!(server.line(), format!("accepted {} {address} {own}", server.child.id()), "{name}");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("it answers");
        assert_eq!(answer, b".", "{name}");
    }
}

#[test]
fn the_slow_one_lets_a_client_wait() {
    let address = free_address();
    let mut server = Role::start(64, &["slow", &address]);
    let client = connect(&address);
    let connected = Instant::now();
    server.line();
    let waited = connected.elapsed();
    assert!(waited >= Duration::from_millis(290), "{waited:?}");
    drop(client);
}

#[test]
fn one_runs_out_of_descriptors() {
    let address = free_address();
    let mut server = Role::start(16, &["exhausted", &address]);
    let clients: Vec<_> = (0..14).map(|_| connect(&address)).collect();
    // Fewer than sixteen, since the listener and the standard descriptors count, too.
    for client in &clients[..8] {
        let own = client.local_addr().expect("it is connected");
        assert_eq!(server.line(), format!("accepted {} {address} {own}", server.child.id()));
    }
    // The other clients wait, until the listener is closed and they are reset.
    let mut last = clients.last().expect("at least one client");
    last.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let result = last.read(&mut [0]);
    assert!(result.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

#[test]
fn clients_and_a_scanner_visit() {
    let address = free_address();
    let mut server = Role::start(64, &["fast", &address]);
    let clients = Role::start(64, &["clients", &format!("--fast={address}")]);
    assert!(server.line().starts_with("accepted "));
    drop(clients);
    let address = free_address();
    let (_, port) = address.split_once(':').expect("an address");
    let mut server = Role::start(64, &["fast", &address]);
    drop(connect(&address));
    server.line();
    let _scanner = Role::start(64, &["scanner", "127.0.0.1", "--first", port, "--last", port]);
    assert!(server.line().starts_with("accepted "));
}
