//! Accepts of our own, which the programs must see.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use acceptd_common::{Call, Counter, InetAccept};

use super::facts::Canary;
use crate::bpf::{
    Programs,
    decode::{Event, decode},
    figures, ring,
};

/// How many there were.
static CANARIES: AtomicU64 = AtomicU64::new(0);

/// How long it may take: the ring wakes its reader at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Accepts on the loopback, and looks for that in the ring of programs that record the agent's own.
pub fn sing(programs: &mut Programs) -> Canary {
    let port = match accepts(programs) {
        Ok((port, silent)) if silent.is_empty() => port,
        Ok((_, silent)) => return Canary::Silent(silent),
        Err(error) => return Canary::Failed(error.to_string()),
    };
    let ring = &mut programs.ring;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        while let Some(sample) = ring.next() {
            if let Ok(Event::InetAccept(accept)) = decode(&sample)
                && is_it(accept, port)
            {
                let proven = accept.call.flags & Call::VERIFIED != 0;
                return if proven { Canary::Seen } else { Canary::Unproven };
            }
        }
        if ring::wait(ring, Duration::from_millis(50)).is_err() {
            break;
        }
    }
    Canary::Silent(Vec::new())
}

/// Accepts on the loopback, and looks whether the programs ran and counted that: a hook runs before its call returns. This
/// proves less than [`sing`], and needs no sample.
pub fn is_counted(programs: &Programs) -> Canary {
    let seen = || programs.counters.read().map(|counts| counts.get(Counter::Seen));
    let accepted = || -> Result<Canary, String> {
        let before = seen().map_err(|error| error.to_string())?;
        let (_, silent) = accepts(programs).map_err(|error| error.to_string())?;
        let counted = seen().map_err(|error| error.to_string())? > before;
        Ok(if counted && silent.is_empty() { Canary::Seen } else { Canary::Silent(silent) })
    };
    accepted().unwrap_or_else(Canary::Failed)
}

/// Accepts a TCP and a UNIX connection: the port of the first, and the programs that should have run then and did not.
/// Nobody knows which these are where statistics may not be switched on (`CAP_SYS_ADMIN`).
fn accepts(programs: &Programs) -> io::Result<(u16, Vec<String>)> {
    let statistics = figures::count_runs();
    let before = programs.hooks.singers();
    let port = accept_one()?;
    accept_unix()?;
    let after = programs.hooks.singers();
    let may_tell = statistics.is_ok();
    let silent = before.iter().zip(&after).filter(|((_, before), (_, after))| may_tell && before == after);
    Ok((port, silent.map(|((program, _), _)| (*program).to_owned()).collect()))
}

/// The port that the connection was accepted on.
fn accept_one() -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let _client = TcpStream::connect_timeout(&address, PATIENCE)?;
    listener.accept()?;
    Ok(address.port())
}

fn accept_unix() -> io::Result<()> {
    // Abstract, so that nothing stays in a folder.
    let name = format!("acceptd-canary-{}-{}", std::process::id(), CANARIES.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let _client = UnixStream::connect_addr(&address)?;
    listener.accept()?;
    Ok(())
}

fn is_it(accept: &InetAccept, port: u16) -> bool {
    accept.call.flags & Call::HAS_SOCKET != 0 && u16::from_be(accept.socket.local_port) == port
}
