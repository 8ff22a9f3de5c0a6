//! memcached with the arguments of Debian's configuration: one thread accepts for four.

use std::path::Path;

use anyhow::Result;

use super::server::{self, Logged, Server};
use crate::e2e::{clients::Answer, sandbox::Sandbox};

pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Server> {
    let name = "memcached";
    let mut memcached = sandbox.command("memcached");
    memcached.args(["-m", "64", "-p", "11211", "-u", "memcache", "-l", "127.0.0.1", "-vv"]);
    let (process, _, log) = server::start(name, memcached, folder)?;
    Ok(Server {
        port: 11_211,
        hello: b"version\r\n",
        answer: Answer::Begun,
        accepted: |line| line.contains(" client connection").then_some(Logged::Unnamed),
        ..Server::new(name, process, log, &["memcached"])
    })
}
