//! Go: its word is a line for each accept that returned.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Server, Word, connections, pid_in_log};
use crate::host;
use crate::process::Running;

/// Starts tests/golistener, which was built into `folder`.
pub(super) fn start(folder: &Path) -> Result<Server> {
    let port = host::free_port()?;
    let socket = folder.join("go.sock");
    let mut go = Command::new(folder.join("golistener"));
    go.arg(format!("127.0.0.1:{port}")).arg(&socket);
    let log = folder.join("go.out");
    let process = Running::start("Go", go, &log, &folder.join("go.err"))?;
    Ok(Server {
        name: "Go",
        executable: "golistener",
        process,
        port,
        socket: Some(socket),
        hello: b"",
        word,
        pid: pid_in_log,
        service: None,
        log,
    })
}

fn word(server: &Server, accepted: usize) -> Result<Word> {
    connections(&server.log, accepted, |line| line.strip_prefix("accepted ")?.split(' ').nth(1))
}
