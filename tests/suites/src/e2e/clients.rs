//! Clients of the servers in sandboxes: whole connections, and handshakes that are broken off.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Between two half-open handshakes: a burst would be a SYN flood.
const PAUSE: Duration = Duration::from_millis(2);

/// How a client ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Reads until the server closes the connection.
    Whole,
    /// Reads some bytes and closes the connection.
    Begun,
}

/// Makes connections to 127.0.0.1 from this many clients at a time, and sends `hello` on each. Each must get
/// an answer.
pub(super) fn connect(
    port: u16,
    hello: &[u8],
    answer: Answer,
    clients: usize,
    connections: usize,
) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let own = (client..connections).step_by(clients);
                scope.spawn(move || own.clone().try_for_each(|_| exchange(port, hello, answer).map(drop)))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?)
    })
}

/// Makes one connection, sends `hello`, and returns the answer.
pub(super) fn exchange(port: u16, hello: &[u8], answer: Answer) -> Result<Vec<u8>> {
    let about = || format!("a connection to port {port}");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).with_context(about)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(hello).with_context(about)?;
    let mut bytes = vec![0; 4_096];
    let length = stream.read(&mut bytes).with_context(about)?;
    ensure!(length > 0, "{}: closed without an answer", about());
    bytes.truncate(length);
    if answer == Answer::Whole {
        match stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                return Err(error).with_context(about);
            }
            _ => {}
        }
    }
    Ok(bytes)
}

/// Sends SYNs, as a health check or a port scan does that never completes a handshake. The kernel itself
/// answers each SYN-ACK with a reset, since no socket has the sender's port.
pub(super) fn half_open(port: u16, probes: u16) -> Result<()> {
    const FIRST_PORT: u16 = 1_024;
    let about = "a half-open handshake";
    let socket = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::TCP))
        .context(about)?;
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    for probe in 0..probes {
        let packet = syn(Ipv4Addr::LOCALHOST, FIRST_PORT + probe, port);
        sendto(&socket, &packet, SendFlags::empty(), &to).context(about)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// A TCP header with the flag SYN, from and to the same address.
fn syn(address: Ipv4Addr, from: u16, to: u16) -> [u8; 20] {
    const OFFSET_AND_SYN: [u8; 2] = [5 << 4, 0x02];
    const WINDOW: [u8; 2] = 64_240_u16.to_be_bytes();
    let mut header = [0; 20];
    header[..2].copy_from_slice(&from.to_be_bytes());
    header[2..4].copy_from_slice(&to.to_be_bytes());
    // Any sequence number will do.
    header[4..8].copy_from_slice(&[from.to_be_bytes(), to.to_be_bytes()].concat());
    header[12..14].copy_from_slice(&OFFSET_AND_SYN);
    header[14..16].copy_from_slice(&WINDOW);
    // The pseudo header: both addresses, the protocol and the length.
    let pseudo = [address.octets(), address.octets(), [0, 6, 0, 20]].concat();
    let checksum = checksum(pseudo.iter().chain(&header).copied());
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// The Internet checksum of an even number of bytes.
fn checksum(bytes: impl Iterator<Item = u8>) -> u16 {
    let (mut sum, mut high) = (0_u32, None);
    for byte in bytes {
        match high.take() {
            None => high = Some(byte),
            Some(high) => sum += u32::from(u16::from_be_bytes([high, byte])),
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{checksum, syn};

    #[test]
    fn a_packet_with_its_checksum_sums_up_to_nothing() {
        let packet = syn(Ipv4Addr::LOCALHOST, 1_024, 80);
        let pseudo = [[127, 0, 0, 1], [127, 0, 0, 1], [0, 6, 0, 20]].concat();
        assert_eq!(checksum(pseudo.into_iter().chain(packet)), 0);
        assert_eq!((packet[2], packet[3], packet[13]), (0, 80, 2));
    }
}
