//! The servers: each accepts in its own way, and none ends by itself.

use std::{
    fmt::Display,
    fs,
    io::{self, ErrorKind, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixListener},
    path::Path,
    process,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::listen,
};

/// How long the slow server lets a client wait, from the moment at which it could have accepted.
const SLOW: Duration = Duration::from_millis(300);

/// The backlog of the crowded server; the kernel's queue holds one connection more.
const BACKLOG: i32 = 1;
/// The pause between two accepts of the crowded server.
const CROWDED: Duration = Duration::from_millis(500);

/// How long the exhausted server tries to accept without a free descriptor: longer than acceptd's
/// `listener.stalled_after`.
const EXHAUSTED: Duration = Duration::from_secs(8);
/// The pause between two of its attempts.
const AGAIN: Duration = Duration::from_millis(100);

pub(crate) fn fast(address: SocketAddr, ports: u16) -> Result<()> {
    let listeners = (0..ports)
        .map(|number| bind(SocketAddr::new(address.ip(), address.port().saturating_add(number))))
        .collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for accepted in listener.incoming() {
                    answer(accepted);
                }
            });
        }
    });
    Ok(())
}

pub(crate) fn slow(address: SocketAddr) -> Result<()> {
    let listener = bind(address)?;
    loop {
        poll(&mut [PollFd::new(&listener, PollFlags::IN)], None).context("waiting for a client")?;
        sleep(SLOW);
        answer(listener.accept().map(|(accepted, _)| accepted));
    }
}

pub(crate) fn crowded(address: SocketAddr) -> Result<()> {
    let listener = bind(address)?;
    listen(listener.as_fd(), BACKLOG).context("listen() with a smaller backlog")?;
    loop {
        answer(listener.accept().map(|(accepted, _)| accepted));
        sleep(CROWDED);
    }
}

pub(crate) fn exhausted(address: SocketAddr) -> Result<()> {
    loop {
        // The listener is dropped after a while, with the clients that still wait, as by a restart.
        let listener = bind(address)?;
        let mut kept = Vec::new();
        let out_of_descriptors = loop {
            match listener.accept() {
                Ok((accepted, _)) => {
                    print_accept(&accepted);
                    kept.push(accepted);
                }
                Err(error) => break error,
            }
        };
        eprintln!("workload: accept: {out_of_descriptors}, {} connections are open", kept.len());
        let since = Instant::now();
        while since.elapsed() < EXHAUSTED {
            sleep(AGAIN);
            // The next accept fails as well: no descriptor was closed.
            if let Ok((accepted, _)) = listener.accept() {
                print_accept(&accepted);
                kept.push(accepted);
            }
        }
    }
}

pub(crate) fn unix(path: &Path) -> Result<()> {
    // The socket file of an earlier run.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("removing {}", path.display()));
    }
    let listener = UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
    for accepted in listener.incoming() {
        let mut accepted = accepted.context("accept")?;
        accept_line(path.display(), "unix");
        // A client that has disconnected already is no error.
        _ = accepted.write_all(b".");
    }
    Ok(())
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("listening on {address}"))
}

fn answer(accepted: io::Result<TcpStream>) {
    match accepted {
        Ok(mut accepted) => {
            print_accept(&accepted);
            _ = accepted.write_all(b".");
        }
        Err(error) => eprintln!("workload: accept: {error}"),
    }
}

fn print_accept(accepted: &TcpStream) {
    if let (Ok(local), Ok(peer)) = (accepted.local_addr(), accepted.peer_addr()) {
        accept_line(local, peer);
    }
}

fn accept_line(local: impl Display, peer: impl Display) {
    println!("accepted {} {local} {peer}", process::id());
}
