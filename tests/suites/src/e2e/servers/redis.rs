//! Redis: it counts what it accepted in `total_connections_received`.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::server::{AcceptedByServer, Server};
use crate::{host, process::Running};

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
        // Debian's redis-server is a symbolic link to redis-check-rdb.
        executable: "redis-check-rdb",
        process,
        port,
        socket: Some(socket),
        hello: b"PING\r\n",
        accepted,
        pid,
        service: None,
        log,
    })
}

fn accepted(server: &Server, _accepted: usize) -> Result<AcceptedByServer> {
    let count = info(server, "stats", "total_connections_received")?;
    Ok(AcceptedByServer::Count(count.parse().context("a count")?))
}

fn pid(server: &Server) -> Result<u32> {
    info(server, "server", "process_id")?.parse().context("a process id")
}

/// A value of the command `INFO`.
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
