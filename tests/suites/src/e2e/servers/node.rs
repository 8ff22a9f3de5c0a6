//! Node: a small program, which logs its `connection` events.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::server::{LoggingServer, Server};
use crate::host;

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

pub(super) fn start(folder: &Path) -> Result<Server> {
    let (port, socket) = (host::free_port()?, folder.join("node.sock"));
    let mut node = Command::new("node");
    node.env("OTEL_SERVICE_NAME", "checkout");
    node.args(["-e", PROGRAM, &port.to_string()]).arg(&socket);
    LoggingServer { name: "Node", executable: "node", port, socket, service: Some("checkout") }
        .start(node, folder)
}
