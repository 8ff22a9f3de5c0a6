//! `Deno.serve`.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::server::{self, Server};
use crate::e2e::sandbox::Sandbox;

const PROGRAM: &str = "
Deno.serve({ hostname: '127.0.0.1', port: 8000 }, (request, connection) => {
  console.log(`accepted ${connection.remoteAddr.port}`);
  return new Response('ok');
});
";

pub(super) fn start(sandbox: &Sandbox, folder: &Path, binary: &Path) -> Result<Server> {
    let name = "Deno";
    let program = folder.join("deno.js");
    fs::write(&program, PROGRAM).context("writing deno.js")?;
    let mut deno = sandbox.command(&binary.to_string_lossy());
    deno.args(["run", "--quiet", "--no-config", "--allow-net=127.0.0.1"]).arg(program).current_dir(folder);
    deno.env("DENO_DIR", folder.join("deno")).env("DENO_NO_UPDATE_CHECK", "1");
    let (process, log, _) = server::start(name, deno, folder)?;
    Ok(Server::new(name, process, log, &["deno"]))
}
