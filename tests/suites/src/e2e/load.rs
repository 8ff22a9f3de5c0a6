//! HTTP clients that open one connection for each request.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::host;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends `requests` from `clients` threads, every other one over IPv6 if the host has it. Fails unless each
/// is answered with 200.
pub(crate) fn send(port: u16, requests: usize, clients: usize) -> Result<()> {
    let v6 = if host::has_ipv6() { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), v6];
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let own = (client..requests).step_by(clients);
                scope.spawn(move || {
                    own.clone().zip(addresses.iter().cycle()).try_for_each(|(_, to)| request(*to, port))
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(())
    })
}

fn request(address: IpAddr, port: u16) -> Result<()> {
    let mut answer = Vec::new();
    let mut ask = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect((address, port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(REQUEST)?;
        stream.read_to_end(&mut answer).map(|_| ())
    };
    ask().with_context(|| format!("a request to {address} port {port}"))?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("nginx answered: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
