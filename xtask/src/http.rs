//! As much of HTTP as asking a server on 127.0.0.1 takes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Status and body of the answer to a GET.
pub(crate) fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let about = || format!("GET http://127.0.0.1:{port}{path}");
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        // Version 1.0: the body ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().with_context(about)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(about)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(about)?;
    Ok((status, body.to_owned()))
}
