//! Redis: its word is `total_connections_received`.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::{Server, Word};
use crate::{apt, host, process::Running};

pub(super) fn require() -> Result<()> {
    apt::require("redis-server", "--version", "redis-server")
}

pub(super) fn start(folder: &Path) -> Result<Server> {
    let port = host::free_port()?;
    let socket = folder.join("redis.sock");
    let mut redis = Command::new("redis-server");
    redis.args(["--save", "", "--bind", "127.0.0.1", "--port", &port.to_string(), "--unixsocket"]);
    redis.arg(&socket).arg("--dir").arg(folder);
    let log = folder.join("redis.out");
    let process = Running::start("redis-server", redis, &log, &folder.join("redis.err"))?;
    Ok(Server {
        name: "Redis",
        // Debian's redis-server is a link to redis-check-rdb.
        executable: "redis-check-rdb",
        process,
        port,
        socket: Some(socket),
        hello: b"PING\r\n",
        word,
        pid,
        service: None,
        log,
    })
}

fn word(server: &Server, _accepted: usize) -> Result<Word> {
    Ok(Word::Count(info(server, "stats", "total_connections_received")?.parse().context("a count")?))
}

fn pid(server: &Server) -> Result<u32> {
    info(server, "server", "process_id")?.parse().context("a process id")
}

/// What Redis says of itself.
fn info(server: &Server, section: &str, name: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port))?;
    stream.write_all(format!("INFO {section}\r\n").as_bytes())?;
    for line in BufReader::new(stream).lines() {
        if let Some(value) = line?.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')) {
            return Ok(value.trim().to_owned());
        }
    }
    anyhow::bail!("INFO has no {name}")
}
