//! PostgreSQL: it logs what it accepted, by `log_connections`.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use xtask_support::command::{self, capture};

use super::server::{AcceptedByServer, Server, connections_in_log};
use crate::{host, process::Running};

/// The user that Debian's package creates: the server refuses to run as root.
const USER: &str = "postgres";

/// `SSLRequest`: eight bytes, beginning with the length. The server answers with one byte.
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

/// The folder of the server's programs. Debian has one for each version, and none is on the PATH.
fn binaries() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .find(|bin| bin.join("postgres").exists())
}

pub(super) fn start(folder: &Path) -> Result<Server> {
    let binaries = binaries().context("PostgreSQL is not installed")?;
    let data = folder.join("postgres");
    fs::create_dir(&data)?;
    let id = |flag: &str| -> Result<u32> {
        let mut id = Command::new("id");
        id.args([flag, USER]);
        capture(id)?.trim().parse().context("an id")
    };
    chown(&data, Some(id("-u")?), Some(id("-g")?))?;
    let as_user = |program: &str| {
        let mut run = Command::new("setpriv");
        run.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--"]);
        run.arg(binaries.join(program)).arg("-D").arg(&data).current_dir(&data);
        run
    };
    let mut init = as_user("initdb");
    init.args(["--auth=trust", "--no-sync", "--locale=C"]).stdout(std::process::Stdio::null());
    command::run(init)?;
    let port = host::free_port()?;
    let mut postgres = as_user("postgres");
    postgres.args(["-p", &port.to_string(), "-h", "127.0.0.1", "-c", "log_connections=on", "-k"]).arg(&data);
    let log = folder.join("postgres.err");
    let process = Running::start("postgres", postgres, &folder.join("postgres.out"), &log)?;
    Ok(Server {
        name: "PostgreSQL",
        executable: "postgres",
        process,
        port,
        socket: Some(data.join(format!(".s.PGSQL.{port}"))),
        hello: SSL_REQUEST,
        accepted,
        pid,
        service: None,
        log,
    })
}

/// `connection received: host=127.0.0.1 port=51514`, or `host=[local]`.
fn accepted(server: &Server, accepted: usize) -> Result<AcceptedByServer> {
    connections_in_log(&server.log, accepted, |line| {
        let (_, from) = line.split_once("connection received: host=")?;
        Some(from.split_once("port=").map_or("unix", |(_, port)| port))
    })
}

/// The postmaster accepts, and forks a process for each connection.
fn pid(server: &Server) -> Result<u32> {
    let folder = server.log.parent().context("a folder")?;
    let text = fs::read_to_string(folder.join("postgres/postmaster.pid"))?;
    text.lines().next().context("an empty file")?.parse().context("a process id")
}
