//! Node: its word are its `connection` events.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Server, Word, connections, pid_in_log};
use crate::process::Running;
use crate::{apt, host};

const PROGRAM: &str = "
const net = require('net');
const serve = () => net.createServer().on('connection', (socket) => {
  console.log('accepted ' + process.pid + ' ' + (socket.remotePort || 'unix'));
  socket.on('error', () => {});
  socket.end('.');
});
serve().listen(Number(process.argv[1]), '127.0.0.1');
serve().listen(process.argv[2]);
";

pub(super) fn require() -> Result<()> {
    apt::require("node", "--version", "nodejs")
}

pub(super) fn start(folder: &Path) -> Result<Server> {
    let port = host::free_port()?;
    let socket = folder.join("node.sock");
    let mut node = Command::new("node");
    node.env("OTEL_SERVICE_NAME", "checkout");
    node.args(["-e", PROGRAM, &port.to_string()]).arg(&socket);
    let log = folder.join("node.out");
    let process = Running::start("node", node, &log, &folder.join("node.err"))?;
    Ok(Server {
        name: "Node",
        executable: "node",
        process,
        port,
        socket: Some(socket),
        hello: b"",
        word,
        pid: pid_in_log,
        service: Some("checkout"),
        log,
    })
}

fn word(server: &Server, accepted: usize) -> Result<Word> {
    connections(&server.log, accepted, |line| line.strip_prefix("accepted ")?.split(' ').nth(1))
}
