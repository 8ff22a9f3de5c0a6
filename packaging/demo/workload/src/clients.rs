//! The clients. A server that is not there, or does not answer, is what they are made for: they try again.

use std::{
    collections::VecDeque,
    io::Read,
    net::{Ipv4Addr, SocketAddrV4, TcpStream, ToSocketAddrs},
    ops::RangeInclusive,
    os::unix::net::UnixStream,
    path::PathBuf,
    thread::{
        sleep, {self},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

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

/// Clients of many addresses of 127.0.0.0/8, in a rate and a number that are known.
#[derive(Args)]
pub(crate) struct Crowd {
    /// Whom they connect to
    server: SocketAddrV4,
    /// Connections a second
    #[arg(long)]
    rate: u32,
    /// For how long
    #[arg(long)]
    seconds: u32,
    /// From how many addresses; one connection in ten is of the first ten
    #[arg(long)]
    addresses: u32,
}

/// The first of the crowd's addresses, 127.1.0.0; the first ten make every tenth connection besides.
const CROWD: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);
const FREQUENT: u32 = 10;
/// So that one slow answer does not hold up the rate.
const THREADS: u32 = 4;

/// Makes all of the connections, each until the server has answered, and says how many.
pub(crate) fn crowd(crowd: &Crowd) -> Result<()> {
    let (started, all) = (Instant::now(), crowd.rate * crowd.seconds);
    thread::scope(|scope| {
        let of_thread = |thread: u32| {
            scope.spawn(move || {
                (thread..all).step_by(THREADS as usize).try_for_each(|number| {
                    let due = Duration::from_secs(1) * number / crowd.rate;
                    sleep(due.saturating_sub(started.elapsed()));
                    connect_from(address(number, crowd.addresses), crowd.server)
                })
            })
        };
        let threads: Vec<_> = (0..THREADS).map(of_thread).collect();
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
        // Those in between, one after the other.
        (number - before - 1) % addresses
    };
    Ipv4Addr::from_bits(CROWD.to_bits() + index)
}

fn connect_from(address: Ipv4Addr, server: SocketAddrV4) -> Result<()> {
    let about = || format!("connecting from {address} to {server}");
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrV4::new(address, 0)).with_context(about)?;
    connect(&socket, &server).with_context(about)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_to_end(&mut Vec::new()).with_context(about)?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_crowd_is_of_all_addresses_and_most_often_of_the_first_ten() {
        let mut counts = BTreeMap::new();
        for number in 0..100_000 {
            *counts.entry(address(number, 5000)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 5000);
        assert!(counts.values().take(10).all(|count| *count == 1018), "{counts:?}");
        assert!(counts.values().skip(10).all(|count| *count == 18));
    }
}
