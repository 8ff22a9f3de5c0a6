//! Dovecot as it is installed: a process for each connection, which accepts it and ends with it.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::server::{self, Logged, Server};
use crate::e2e::sandbox::Sandbox;

const CONFIG: &str = "!include /etc/dovecot/dovecot.conf\nlog_path = /dev/stderr\n";

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "Dovecot";
    let config = folder.join("dovecot.conf");
    fs::write(&config, CONFIG).context("writing dovecot.conf")?;
    let mut dovecot = sandbox.command("sh");
    dovecot.args(["-c", "mkdir -p /run/dovecot && exec dovecot -F -c \"$0\""]).arg(config);
    let (process, _, log) = server::start(name, dovecot, folder)?;
    Ok(Server {
        port: 143,
        // The master has the listener open, too, and is its only owner between two login processes.
        owners: &["imap-login", "dovecot"],
        // The master gives its processes an environment of its own.
        keeps_environment: false,
        is_short_lived: true,
        hello: b"a LOGOUT\r\n",
        accepted: |line| {
            (line.contains("imap-login: Info: ") && line.contains("rip=127.0.0.1")).then_some(Logged::Unnamed)
        },
        ..Server::new(name, process, log, &["imap-login"])
    })
}
