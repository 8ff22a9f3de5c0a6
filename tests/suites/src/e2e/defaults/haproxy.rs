//! HAProxy with `defer-accept`.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::server::{self, Server};
use crate::e2e::sandbox::Sandbox;

const CONFIG: &str = "global
  log stdout format raw daemon
defaults
  mode http
  log global
  timeout client 10s
  timeout connect 10s
  timeout server 10s
frontend all
  bind 127.0.0.1:8000 defer-accept
  log-format \"accepted %cp\"
  http-request return status 200
";

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "HAProxy defer-accept";
    let config = folder.join("defer-accept.cfg");
    fs::write(&config, CONFIG).context("writing haproxy.cfg")?;
    let mut haproxy = sandbox.command("haproxy");
    haproxy.arg("-db").arg("-f").arg(config);
    let (process, log, _) = server::start(name, haproxy, folder)?;
    Ok(Server::new(name, process, log, &["haproxy"]))
}
