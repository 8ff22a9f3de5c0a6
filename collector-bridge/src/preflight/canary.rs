//! An accept of our own, which the programs must see.

use std::{
    io,
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use acceptd_common::{Call, Counter, InetAccept};
use aya::maps::{MapData, RingBuf};

use super::facts::Canary;
use crate::{
    bpf::{counters::Counters, ring},
    event::{Event, decode},
};

/// How long it may take: the ring wakes its reader at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Accepts a connection on the loopback, and looks for it in the ring of programs that record the agent's own.
pub fn sing(ring: &mut RingBuf<MapData>) -> Canary {
    let port = match accept_one() {
        Ok(port) => port,
        Err(error) => return Canary::Failed(error.to_string()),
    };
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
    Canary::Silent
}

/// Accepts a connection on the loopback, and looks whether the programs counted one: a hook runs before its call
/// returns. This proves less than [`sing`], and needs no sample.
pub fn is_counted(counters: &Counters) -> Canary {
    let seen = || counters.read().map(|counts| counts.get(Counter::Seen));
    let accepted = || -> Result<bool, String> {
        let before = seen().map_err(|error| error.to_string())?;
        accept_one().map_err(|error| error.to_string())?;
        Ok(seen().map_err(|error| error.to_string())? > before)
    };
    match accepted() {
        Ok(true) => Canary::Seen,
        Ok(false) => Canary::Silent,
        Err(error) => Canary::Failed(error),
    }
}

/// The port that the connection was accepted on.
fn accept_one() -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let _client = TcpStream::connect_timeout(&address, PATIENCE)?;
    listener.accept()?;
    Ok(address.port())
}

fn is_it(accept: &InetAccept, port: u16) -> bool {
    accept.call.flags & Call::HAS_SOCKET != 0 && u16::from_be(accept.socket.local_port) == port
}
