//! Gunicorn: four workers accept on one inherited socket.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::server::{self, HTTP, Logged, Server};
use crate::e2e::{clients::Answer, sandbox::Sandbox};

const APPLICATION: &str = "
def application(environment, start_response):
    start_response('200 OK', [('Content-Length', '2')])
    return [b'ok']
";

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "Gunicorn";
    let home = folder.join("gunicorn");
    fs::create_dir(&home)?;
    fs::write(home.join("shop.py"), APPLICATION).context("writing the application")?;
    let mut gunicorn = sandbox.command("/usr/bin/gunicorn");
    gunicorn.args(["--workers", "4", "--bind", "127.0.0.1:8000", "--access-logfile", "-", "--chdir"]);
    gunicorn.arg(home).arg("shop:application");
    let (process, log, _) = server::start(name, gunicorn, folder)?;
    Ok(Server {
        name,
        process,
        port: 8_000,
        at_least: 0,
        executables: PYTHON,
        owners: PYTHON,
        keeps_environment: true,
        is_short_lived: false,
        hello: HTTP,
        answer: Answer::Whole,
        log,
        accepted: |line| line.contains("\"GET / ").then_some(Logged::Unnamed),
    })
}

/// Debian's Python of the last three releases.
pub(super) const PYTHON: &[&str] = &["python3.11", "python3.13", "python3.14"];
