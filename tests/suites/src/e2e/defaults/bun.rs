//! Bun.serve, which defers accepts.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::server::{self, Server};
use crate::e2e::sandbox::Sandbox;

const PROGRAM: &str = "
Bun.serve({
  hostname: '127.0.0.1',
  port: 8000,
  fetch(request, server) {
    console.log(`accepted ${server.requestIP(request).port}`);
    return new Response('ok');
  },
});
";

pub(super) fn start(sandbox: &Sandbox, folder: &Path, binary: &Path) -> Result<Server> {
    let name = "Bun";
    let program = folder.join("bun.js");
    fs::write(&program, PROGRAM).context("writing bun.js")?;
    let mut bun = sandbox.command(&binary.to_string_lossy());
    bun.arg("run").arg(program).current_dir(folder).env("HOME", folder);
    let (process, log, _) = server::start(name, bun, folder)?;
    Ok(Server::new(name, process, log, &["bun"]))
}
