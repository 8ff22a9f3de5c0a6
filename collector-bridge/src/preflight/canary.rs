//! The canary: accepts that acceptd makes itself on the loopback, to prove that its programs run.

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

use acceptd_common::{AcceptCall, Counter, InetAccept};

use super::facts::Canary;
use crate::bpf::{
    Programs,
    decode::{Sample, decode},
    program_stats, ring,
};

/// Number of UNIX canaries so far; makes the name of each socket unique.
static CANARIES: AtomicU64 = AtomicU64::new(0);

/// How long to wait for the canary's sample. The ring wakes its reader at once, so this is ample.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Accepts on the loopback, and waits for the accept's sample in the ring. The programs must record the
/// agent's own accepts (`record_self`).
pub(super) fn probe(programs: &mut Programs) -> Canary {
    let port = match accept_canaries(programs) {
        Ok((port, silent)) if silent.is_empty() => port,
        Ok((_, silent)) => return Canary::Silent(silent),
        Err(error) => return Canary::Failed(error.to_string()),
    };
    let ring = &mut programs.ring;
    let deadline = Instant::now() + SAMPLE_TIMEOUT;
    while Instant::now() < deadline {
        while let Some(sample) = ring.next() {
            if let Ok(Sample::InetAccept(accept)) = decode(&sample)
                && is_canary(accept, port)
            {
                let proven = accept.call.flags & AcceptCall::VERIFIED != 0;
                return if proven { Canary::Seen } else { Canary::Unproven };
            }
        }
        if ring::wait(ring, Duration::from_millis(50)).is_err() {
            break;
        }
    }
    Canary::Silent(Vec::new())
}

/// Accepts on the loopback, and checks that the programs ran and counted the accept; a hook runs before its
/// call returns. Proves less than [`probe`], but works without samples of the agent's own accepts.
pub(super) fn probe_counters(programs: &Programs) -> Canary {
    let seen = || programs.counters.read().map(|counts| counts.get(Counter::Seen));
    let accepted = || -> Result<Canary, String> {
        let before = seen().map_err(|error| error.to_string())?;
        let (_, silent) = accept_canaries(programs).map_err(|error| error.to_string())?;
        let is_counted = seen().map_err(|error| error.to_string())? > before;
        Ok(if is_counted && silent.is_empty() { Canary::Seen } else { Canary::Silent(silent) })
    };
    accepted().unwrap_or_else(Canary::Failed)
}

/// Accepts a TCP and a UNIX connection. Returns the port of the TCP listener, and the programs on the path of
/// these accepts that did not run. Without `CAP_SYS_ADMIN` the kernel does not count runs, and no program is
/// named.
fn accept_canaries(programs: &Programs) -> io::Result<(u16, Vec<String>)> {
    // The kernel counts runs for as long as this descriptor is open.
    let run_stats = program_stats::enable_run_stats();
    let before = programs.attached.probe_path_runs();
    let port = accept_tcp()?;
    accept_unix()?;
    let after = programs.attached.probe_path_runs();
    let has_counts = run_stats.is_ok();
    let silent = before.iter().zip(&after).filter(|((_, before), (_, after))| has_counts && before == after);
    Ok((port, silent.map(|((program, _), _)| (*program).to_owned()).collect()))
}

/// Returns the port of the listener.
fn accept_tcp() -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let _client = TcpStream::connect_timeout(&address, SAMPLE_TIMEOUT)?;
    listener.accept()?;
    Ok(address.port())
}

fn accept_unix() -> io::Result<()> {
    // An abstract name leaves no file behind.
    let name = format!("acceptd-canary-{}-{}", std::process::id(), CANARIES.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let _client = UnixStream::connect_addr(&address)?;
    listener.accept()?;
    Ok(())
}

fn is_canary(accept: &InetAccept, port: u16) -> bool {
    accept.call.flags & AcceptCall::HAS_SOCKET != 0 && u16::from_be(accept.socket.local_port) == port
}
