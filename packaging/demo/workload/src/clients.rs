//! The clients. A server that is not there, or does not answer, is what they are made for: they try again.

use std::collections::VecDeque;
use std::io::Read;
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two scans, and between two ports of one.
const REST: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(10);
const KNOCK: Duration = Duration::from_millis(200);

/// Where the servers are; one that is left out has no clients.
#[derive(Args)]
pub(crate) struct Servers {
    #[arg(long)]
    fast: Option<String>,
    #[arg(long)]
    slow: Option<String>,
    #[arg(long)]
    crowded: Option<String>,
    #[arg(long)]
    exhausted: Option<String>,
    #[arg(long)]
    unix: Option<PathBuf>,
}

/// Each server has clients of its own, so that none waits for another's.
pub(crate) fn all(servers: &Servers) {
    thread::scope(|scope| {
        if let Some(fast) = &servers.fast {
            scope.spawn(|| again_and_again(Duration::from_millis(50), || visit(fast)));
        }
        if let Some(slow) = &servers.slow {
            scope.spawn(|| again_and_again(Duration::from_secs(1), || visit(slow)));
        }
        if let Some(crowded) = &servers.crowded {
            scope.spawn(|| again_and_again(Duration::from_secs(3), || visit_at_once(crowded, 6)));
        }
        if let Some(exhausted) = &servers.exhausted {
            scope.spawn(|| stay(exhausted));
        }
        if let Some(path) = &servers.unix {
            scope.spawn(|| again_and_again(Duration::from_millis(500), || visit_unix(path)));
        }
    });
}

/// Tries each port in turn; what does not answer soon has nothing to say.
pub(crate) fn scan(host: &str, ports: RangeInclusive<u16>) -> Result<()> {
    loop {
        let address = (host, 0).to_socket_addrs().with_context(|| format!("resolving {host}"))?.next();
        let mut address = address.with_context(|| format!("{host} has no address"))?;
        for port in ports.clone() {
            address.set_port(port);
            // Closed, filtered or open: a scanner goes on.
            _ = TcpStream::connect_timeout(&address, KNOCK);
            sleep(STEP);
        }
        sleep(REST);
    }
}

fn again_and_again(pause: Duration, mut visit: impl FnMut()) {
    loop {
        visit();
        sleep(pause);
    }
}

/// Waits for the answer, whatever it is.
fn visit(server: &str) {
    if let Ok(mut stream) = TcpStream::connect(server) {
        _ = stream.set_read_timeout(Some(PATIENCE));
        _ = stream.read_to_end(&mut Vec::new());
    }
}

fn visit_at_once(server: &str, clients: usize) {
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| visit(server));
        }
    });
}

/// Keeps the last connections open, for ten seconds each: together more than the server has descriptors for, and longer than a listener
/// may stand still before acceptd says so.
fn stay(server: &str) {
    const KEPT: usize = 48;
    let mut open = VecDeque::with_capacity(KEPT);
    again_and_again(Duration::from_millis(200), || {
        if let Ok(stream) = TcpStream::connect(server) {
            if open.len() == KEPT {
                open.pop_front();
            }
            open.push_back(stream);
        }
    });
}

fn visit_unix(path: &PathBuf) {
    if let Ok(mut stream) = UnixStream::connect(path) {
        _ = stream.set_read_timeout(Some(PATIENCE));
        _ = stream.read_to_end(&mut Vec::new());
    }
}
