//! Debian's apache2 as it is installed: it defers accepts until the request is there.

use std::path::Path;

use anyhow::Result;

use super::server::{self, Logged, Server};
use crate::e2e::sandbox::Sandbox;

/// The steps of `apache2ctl start`.
const START: &str = ". /etc/apache2/envvars && mkdir -p $APACHE_RUN_DIR $APACHE_LOCK_DIR $APACHE_LOG_DIR \
     && exec apache2 -D FOREGROUND";

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "apache2";
    let mut shell = sandbox.command("sh");
    shell.args(["-c", START]);
    let (process, ..) = server::start(name, shell, folder)?;
    Ok(Server {
        port: 80,
        connections: |wanted| wanted.max(1_000),
        accepted: |line| line.contains("\"GET / ").then_some(Logged::Unnamed),
        ..Server::new(name, process, sandbox.path("/var/log/apache2/access.log"), &["apache2"])
    })
}
