//! Debian's apache2 as it is installed: it defers accepts until the request is there.

use std::path::Path;

use anyhow::Result;

use super::server::{self, CLIENTS, HTTP, Logged, Server};
use crate::e2e::{clients::Answer, sandbox::Sandbox};

/// The steps of `apache2ctl start`.
const START: &str = ". /etc/apache2/envvars && mkdir -p $APACHE_RUN_DIR $APACHE_LOCK_DIR $APACHE_LOG_DIR \
     && exec apache2 -D FOREGROUND";

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "apache2";
    let mut shell = sandbox.command("sh");
    shell.args(["-c", START]);
    let (process, ..) = server::start(name, shell, folder)?;
    Ok(Server {
        name,
        process,
        port: 80,
        connections: |wanted| wanted.max(1_000),
        clients: CLIENTS,
        executables: &["apache2"],
        owners: &["apache2"],
        keeps_environment: true,
        is_short_lived: false,
        hello: HTTP,
        answer: Answer::Whole,
        log: sandbox.path("/var/log/apache2/access.log"),
        accepted: |line| line.contains("\"GET / ").then_some(Logged::Unnamed),
    })
}
