//! The clients. They expect servers that are not there or do not answer, and try again.

use std::{
    collections::VecDeque,
    io::Read,
    net::{Ipv4Addr, SocketAddrV4, TcpStream, ToSocketAddrs},
    ops::RangeInclusive,
    os::unix::net::UnixStream,
    path::PathBuf,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

/// The read timeout of a client.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two scans, and between two ports of one scan.
const REST: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(10);
const KNOCK: Duration = Duration::from_millis(200);

/// The addresses of the servers; a server without an address gets no clients.
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

/// Clients from many addresses of 127.0.0.0/8, with a known rate and number.
#[derive(Args)]
pub(crate) struct Crowd {
    /// The server that they connect to
    server: SocketAddrV4,
    /// Connections per second
    #[arg(long)]
    rate: u32,
    /// Duration in seconds
    #[arg(long)]
    seconds: u32,
    /// From how many addresses; one connection in ten comes from the first ten
    #[arg(long)]
    addresses: u32,
}

/// The first of the crowd's addresses.
const CROWD: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);
/// Every tenth connection comes from one of the first ten addresses, in addition to their regular share.
const FREQUENT: u32 = 10;
/// Several threads, so that one slow answer does not reduce the rate.
const THREADS: u32 = 4;

/// Makes all connections, each until the server has answered, and prints how many.
pub(crate) fn crowd(crowd: &Crowd) -> Result<()> {
    let (started, all) = (Instant::now(), crowd.rate * crowd.seconds);
    thread::scope(|scope| {
        let start_thread = |thread: u32| {
            scope.spawn(move || {
                (thread..all).step_by(THREADS as usize).try_for_each(|number| {
                    let due = Duration::from_secs(1) * number / crowd.rate;
                    sleep(due.saturating_sub(started.elapsed()));
                    connect_from(address(number, crowd.addresses), crowd.server)
                })
            })
        };
        let threads: Vec<_> = (0..THREADS).map(start_thread).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")))
    })?;
    println!("connected {all} in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn address(number: u32, addresses: u32) -> Ipv4Addr {
    let before = number / FREQUENT;
    let index = if number.is_multiple_of(FREQUENT) {
        before % FREQUENT.min(addresses)
    } else {
        // The connections in between cycle through the other addresses.
        (number - before - 1) % addresses
    };
    Ipv4Addr::from_bits(CROWD.to_bits() + index)
}

fn connect_from(address: Ipv4Addr, server: SocketAddrV4) -> Result<()> {
    let context = || format!("connecting from {address} to {server}");
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrV4::new(address, 0)).with_context(context)?;
    connect(&socket, &server).with_context(context)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_to_end(&mut Vec::new()).with_context(context)?;
    Ok(())
}

/// Runs the clients of all servers, each server's in its own thread, so that a slow server delays only its
/// own.
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

/// Tries each port in turn, and waits only briefly for an answer.
pub(crate) fn scan(host: &str, ports: RangeInclusive<u16>) -> Result<()> {
    loop {
        let address = (host, 0).to_socket_addrs().with_context(|| format!("resolving {host}"))?.next();
        let mut address = address.with_context(|| format!("{host} has no address"))?;
        for port in ports.clone() {
            address.set_port(port);
            // Whether closed, filtered or open: the scanner goes on.
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

/// Waits for the answer and ignores its content.
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

/// Keeps the last connections open for ten seconds each: together more than the server has descriptors for,
/// and longer than `listener.stalled_after`, so that acceptd reports a stall.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_crowd_uses_all_addresses_and_the_first_ten_most_often() {
        let mut counts = BTreeMap::new();
        for number in 0..100_000 {
            *counts.entry(address(number, 5000)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 5000);
        assert!(counts.values().take(10).all(|count| *count == 1018), "{counts:?}");
        assert!(counts.values().skip(10).all(|count| *count == 18));
    }
}
