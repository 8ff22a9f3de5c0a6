//! Go: the program tests/golistener.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::server::{LoggingServer, Server};
use crate::host;

/// The program must be in `folder`.
pub(super) fn start(folder: &Path) -> Result<Server> {
    let (port, socket) = (host::free_port()?, folder.join("go.sock"));
    let mut go = Command::new(folder.join("golistener"));
    go.arg(format!("127.0.0.1:{port}")).arg(&socket);
    LoggingServer { name: "Go", executable: "golistener", port, socket, service: None }.start(go, folder)
}
