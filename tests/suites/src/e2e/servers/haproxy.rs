//! HAProxy: it logs what it accepted.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

use super::server::{AcceptedByServer, Server, connections_in_log, pid_in_log};
use crate::{host, process::Running};

pub(super) fn start(folder: &Path) -> Result<Server> {
    let port = host::free_port()?;
    let socket = folder.join("haproxy.sock");
    let config = folder.join("haproxy.cfg");
    let text = format!(
        "global
  nbthread 2
  log stdout format raw daemon
defaults
  mode http
  log global
  timeout client 10s
  timeout connect 10s
  timeout server 10s
frontend all
  bind 127.0.0.1:{port}
  bind unix@{}
  log-format \"accepted %pid %cp\"
  http-request return status 200
",
        socket.display()
    );
    std::fs::write(&config, text).context("writing haproxy.cfg")?;
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-db").arg("-f").arg(&config);
    let log = folder.join("haproxy.out");
    let process = Running::start("haproxy", haproxy, &log, &folder.join("haproxy.err"))?;
    Ok(Server {
        name: "HAProxy",
        executable: "haproxy",
        process,
        port,
        socket: Some(socket),
        hello: b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        accepted,
        pid: pid_in_log,
        service: None,
        log,
    })
}

/// HAProxy logs the client's port, or for a client over the UNIX socket the number of the `bind` line, which
/// is small.
fn accepted(server: &Server, accepted: usize) -> Result<AcceptedByServer> {
    connections_in_log(&server.log, accepted, |line| {
        let port = line.strip_prefix("accepted ")?.split(' ').nth(1)?;
        Some(if port.len() < 4 { "unix" } else { port })
    })
}
