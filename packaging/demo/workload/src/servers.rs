//! The servers. Each accepts in its own way, and none ends by itself.

use std::{
    fmt::Display,
    fs,
    io::{
        ErrorKind, Write, {self},
    },
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixListener},
    path::Path,
    process,
    thread::{
        sleep, {self},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::listen,
};

/// How long the slow one lets a client wait, from when it could have accepted.
const SLOW: Duration = Duration::from_millis(300);

/// What the crowded one has room for; the kernel takes one more.
const BACKLOG: i32 = 1;
const CROWDED: Duration = Duration::from_millis(500);

/// How long the exhausted one tries to accept, without a descriptor left: longer than acceptd's `listener.stalled_after`.
const EXHAUSTED: Duration = Duration::from_secs(8);
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
        // Dropped after a while with those who still wait: as if it had been restarted.
        let listener = bind(address)?;
        let mut kept = Vec::new();
        let out_of_descriptors = loop {
            match listener.accept() {
                Ok((accepted, _)) => {
                    told(&accepted);
                    kept.push(accepted);
                }
                Err(error) => break error,
            }
        };
        eprintln!("workload: accept: {out_of_descriptors}, {} connections are open", kept.len());
        let since = Instant::now();
        while since.elapsed() < EXHAUSTED {
            sleep(AGAIN);
            // Fails again: nothing was closed.
            if let Ok((accepted, _)) = listener.accept() {
                told(&accepted);
                kept.push(accepted);
            }
        }
    }
}

pub(crate) fn unix(path: &Path) -> Result<()> {
    // Of a run before.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("removing {}", path.display()));
    }
    let listener = UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
    for accepted in listener.incoming() {
        let mut accepted = accepted.context("accept")?;
        accept_line(path.display(), "unix");
        // A client that is gone already is none of its business.
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
            told(&accepted);
            _ = accepted.write_all(b".");
        }
        Err(error) => eprintln!("workload: accept: {error}"),
    }
}

fn told(accepted: &TcpStream) {
    if let (Ok(local), Ok(peer)) = (accepted.local_addr(), accepted.peer_addr()) {
        accept_line(local, peer);
    }
}

fn accept_line(local: impl Display, peer: impl Display) {
    println!("accepted {} {local} {peer}", process::id());
}
