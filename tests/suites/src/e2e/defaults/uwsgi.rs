//! uWSGI, which by default defers accepts.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::server::{self, Logged, Server};
use crate::e2e::sandbox::Sandbox;

const APPLICATION: &str = "
def application(environment, start_response):
    start_response('200 OK', [('Content-Length', '2')])
    return [b'ok']
";

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "uWSGI";
    let file = folder.join("uwsgi_application.py");
    fs::write(&file, APPLICATION).context("writing the application")?;
    let mut uwsgi = sandbox.command("uwsgi");
    uwsgi.args(["--plugin", "python3", "--http-socket", "127.0.0.1:8000", "--master", "--processes", "4"]);
    uwsgi.arg("--wsgi-file").arg(file);
    let (process, _, log) = server::start(name, uwsgi, folder)?;
    // Debian's uwsgi is a link.
    Ok(Server {
        accepted: |line| line.contains(" GET / => generated ").then_some(Logged::Unnamed),
        ..Server::new(name, process, log, &["uwsgi-core"])
    })
}
