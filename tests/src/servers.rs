//! Servers of scenarios: processes of the program `acceptor` that share a listener, and programs of others.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{agent::binary, wait};

/// Some processes of the program `acceptor`, all on the same listener. They are killed on drop.
#[derive(Debug)]
pub struct Servers(Vec<Child>);

impl Servers {
    /// Starts `count` processes with these arguments.
    ///
    /// # Panics
    /// If one does not start.
    #[must_use]
    pub fn start(count: usize, listener: &impl AsFd, arguments: &[&str]) -> Self {
        let start = |_| {
            let listener = listener.as_fd().try_clone_to_owned().expect("a descriptor");
            let mut acceptor = Command::new(binary("acceptor"));
            acceptor.args(arguments).stdin(Stdio::from(listener));
            acceptor.stdout(Stdio::null()).spawn().expect("the acceptor starts")
        };
        Self((0..count).map(start).collect())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            _ = server.kill();
            _ = server.wait();
        }
    }
}

/// A server program that binds its own address. It is stopped with SIGTERM on drop.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts the program, and waits until it listens on the IPv4 address, without connecting to it.
    ///
    /// # Panics
    /// If it does not start, or does not listen before the deadline.
    #[must_use]
    pub fn start(mut program: Command, address: SocketAddr) -> Self {
        let child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the server starts");
        let server = Self(child);
        wait::until("the server to listen", || is_listening(address).then_some(()));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        _ = self.0.wait();
    }
}

/// Whether a socket listens on the address, by /proc/net/tcp.
fn is_listening(address: SocketAddr) -> bool {
    const LISTEN: &str = "0A";
    let SocketAddr::V4(address) = address else { return false };
    let octets = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{octets:08X}:{:04X}", address.port());
    let text = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&LISTEN)
    })
}

/// An address of the loopback on which no socket listens now.
///
/// # Panics
/// If no port is free.
#[must_use]
pub fn unused_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}
