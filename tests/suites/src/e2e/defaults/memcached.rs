//! memcached with the arguments of Debian's configuration: one thread accepts for four.

use std::path::Path;

use anyhow::Result;

use super::server::{self, CLIENTS, Logged, Server, as_wanted};
use crate::e2e::{clients::Answer, sandbox::Sandbox};

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "memcached";
    let mut memcached = sandbox.command("memcached");
    memcached.args(["-m", "64", "-p", "11211", "-u", "memcache", "-l", "127.0.0.1", "-vv"]);
    let (process, _, log) = server::start(name, memcached, folder)?;
    Ok(Server {
        name,
        process,
        port: 11_211,
        connections: as_wanted,
        clients: CLIENTS,
        executables: &["memcached"],
        owners: &["memcached"],
        keeps_environment: true,
        is_short_lived: false,
        hello: b"version\r\n",
        answer: Answer::Begun,
        log,
        accepted: |line| line.contains(" client connection").then_some(Logged::Unnamed),
    })
}
