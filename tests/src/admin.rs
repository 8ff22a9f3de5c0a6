//! A minimal HTTP client for the agent's admin endpoint (`admin.listen`).

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::agent::Agent;

/// The address of the admin endpoint, which the agent logs when it starts.
///
/// # Panics
/// If the agent logs none.
pub fn address_of(agent: &mut Agent) -> SocketAddr {
    agent.wait_for_message("serves http://");
    let stderr = agent.stderr();
    let address = stderr.split("serves http://").nth(1).and_then(|rest| rest.split('/').next());
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{stderr}"))
}

/// The status code and the body of the answer to `GET path`.
///
/// # Panics
/// If the agent does not answer with HTTP.
#[must_use]
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the agent listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (code, body.to_owned())
}
