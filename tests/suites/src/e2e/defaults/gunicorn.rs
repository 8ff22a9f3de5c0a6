//! Gunicorn: its workers accept on one inherited socket.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::server::{self, Logged, Server};
use crate::e2e::sandbox::Sandbox;

const APPLICATION: &str = "
import time

def application(environment, start_response):
    time.sleep(SECONDS)
    start_response('200 OK', [('Content-Length', '2')])
    return [b'ok']
";

/// As it is installed.
pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    run("Gunicorn", ["--workers", "4"], "0", sandbox, folder)
}

/// One slow worker with a backlog of 2, and more clients than that: the kernel refuses some handshakes, which
/// their clients repeat.
pub(super) fn start_crowded(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let server = run("Gunicorn, backlog 2", ["--backlog", "2"], "0.02", sandbox, folder)?;
    // Each client waits for seconds until it repeats a handshake.
    Ok(Server { connections: |_| 50, clients: 10, ..server })
}

fn run(
    name: &'static str,
    arguments: [&str; 2],
    seconds: &str,
    sandbox: &Sandbox,
    folder: &Path,
) -> Result<Server> {
    let home = folder.join(server::service(name));
    fs::create_dir(&home)?;
    let application = APPLICATION.replace("SECONDS", seconds);
    fs::write(home.join("shop.py"), application).context("writing the application")?;
    let mut gunicorn = sandbox.command("/usr/bin/gunicorn");
    gunicorn.args(arguments).args(["--bind", "127.0.0.1:8000", "--access-logfile", "-", "--chdir"]);
    gunicorn.arg(home).arg("shop:application");
    let (process, log, _) = server::start(name, gunicorn, folder)?;
    Ok(Server {
        accepted: |line| line.contains("\"GET / ").then_some(Logged::Unnamed),
        ..Server::new(name, process, log, PYTHON)
    })
}

/// Debian's Python of the last three releases.
pub(super) const PYTHON: &[&str] = &["python3.11", "python3.13", "python3.14"];
