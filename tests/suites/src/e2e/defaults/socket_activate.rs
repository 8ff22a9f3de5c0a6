//! systemd-socket-activate, both ways: it accepts and starts a process for each connection, or it executes
//! the server, which accepts on the socket that it inherits.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{
    gunicorn::PYTHON,
    server::{self, Logged, Server, service},
};
use crate::e2e::{clients::Answer, sandbox::Sandbox};

const PROGRAM: &str = "
import socket
listener = socket.socket(fileno=3)
while True:
    connection, peer = listener.accept()
    print('accepted', peer[1], flush=True)
    connection.sendall(connection.recv(100))
    connection.close()
";

/// The manager accepts.
pub(super) fn start_accepting(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "socket activation, accepting";
    let mut activate = sandbox.command("systemd-socket-activate");
    activate.args(["--accept", "--inetd", "--listen", "127.0.0.1:8000", "cat"]);
    let (process, _, log) = server::start(name, activate, folder)?;
    Ok(Server {
        hello: b"hello\n",
        answer: Answer::Begun,
        accepted: |line| {
            let peer = line.strip_prefix("Connection from 127.0.0.1:")?;
            peer.split(' ').next()?.parse().ok().map(Logged::Port)
        },
        ..Server::new(name, process, log, &["systemd-socket-activate"])
    })
}

/// The server accepts, in the process that was the manager.
pub(super) fn start_passing(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "socket activation, passing";
    let program = folder.join("activated.py");
    fs::write(&program, PROGRAM).context("writing activated.py")?;
    let mut activate = sandbox.command("systemd-socket-activate");
    // It executes the server with the variables that are named here.
    activate.args(["--setenv", &format!("OTEL_SERVICE_NAME={}", service(name))]);
    activate.args(["--listen", "127.0.0.1:8000", "/usr/bin/python3"]).arg(program);
    let (process, log, _) = server::start(name, activate, folder)?;
    Ok(Server { hello: b"hello\n", answer: Answer::Begun, ..Server::new(name, process, log, PYTHON) })
}
