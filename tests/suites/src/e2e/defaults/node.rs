//! Node's cluster: the primary process accepts, and passes the connections to its workers in turn.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::server::{self, Server};
use crate::e2e::sandbox::Sandbox;

const PROGRAM: &str = "
const cluster = require('cluster');
if (cluster.isPrimary) {
  for (let worker = 0; worker < 2; worker++) cluster.fork();
} else {
  const server = require('http').createServer((request, response) => response.end('ok'));
  server.on('connection', socket => console.log(`accepted ${socket.remotePort}`));
  server.listen(8000, '127.0.0.1');
}
";

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "Node cluster";
    let program = folder.join("cluster.js");
    fs::write(&program, PROGRAM).context("writing cluster.js")?;
    let mut node = sandbox.command("node");
    node.arg(program);
    let (process, log, _) = server::start(name, node, folder)?;
    Ok(Server::new(name, process, log, &["node"]))
}
