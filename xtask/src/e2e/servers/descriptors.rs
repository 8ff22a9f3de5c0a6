//! A server with `ulimit -n 64` and more clients than that: strace counts its EMFILE, and so do the agent's counts of
//! failures.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::READY;
use crate::{
    apt, host,
    process::{Running, until},
    records::Record,
};

const LIMIT: usize = 64;
const CLIENTS: usize = 100;
/// Failures to wait for: beyond the budget of records.
const FAILURES: u64 = 200;

/// Keeps every connection, and tries to accept another at once when that failed.
const PROGRAM: &str = "
import java.net.*;
import java.util.*;

public class Keeps {
  public static void main(String[] arguments) throws Exception {
    var server = new ServerSocket(Integer.parseInt(arguments[0]), 511, InetAddress.getByName(\"127.0.0.1\"));
    System.out.println(ProcessHandle.current().pid());
    var open = new ArrayList<Socket>();
    while (true) {
      try {
        open.add(server.accept());
      } catch (java.io.IOException outOfDescriptors) {
        Thread.sleep(1);
      }
    }
  }
}
";

/// What strace counted.
pub(super) struct Counted {
    pub(super) emfile: u64,
    port: u16,
    pid: String,
}

pub(super) fn require() -> Result<()> {
    apt::require("strace", "--version", "strace")
}

pub(super) fn measure(folder: &Path) -> Result<Counted> {
    let port = host::free_port()?;
    let (trace, out) = (folder.join("strace"), folder.join("descriptors.out"));
    let source = folder.join("Keeps.java");
    std::fs::write(&source, PROGRAM).context("writing Keeps.java")?;
    let mut shell = Command::new("sh");
    let script =
        format!("ulimit -n {LIMIT} && exec strace -f -e trace=accept,accept4 -o \"$0\" java \"$1\" {port}");
    shell.args(["-c", &script]).arg(&trace).arg(&source);
    let mut server = Running::start("strace java", shell, &out, &folder.join("descriptors.err"))?;
    let pid = until("the server without descriptors", READY, || {
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        Ok(text.ends_with('\n').then(|| text.trim().to_owned()))
    })?;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("a client"))
        .collect::<Result<_>>()?;
    until("strace to see EMFILE", READY, || Ok((emfile(&trace)? >= FAILURES).then_some(())))?;
    drop(clients);
    let process = pid.parse().ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(process, Signal::KILL).context("ending the server")?;
    // strace writes its last lines when the server has ended.
    until("strace to end", READY, || Ok(server.has_ended()?.then_some(())))?;
    Ok(Counted { emfile: emfile(&trace)?, port, pid })
}

/// Lines of a trace with that error.
fn emfile(trace: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(trace).with_context(|| format!("reading {}", trace.display()))?;
    Ok(text.lines().filter(|line| line.contains("= -1 EMFILE")).count() as u64)
}

impl Counted {
    /// The agent's counts are strace's.
    pub(super) fn check(&self, records: &[Record]) -> Result<()> {
        let is_of = |record: &&Record| {
            record.event_name == "acceptd.listener.failures"
                && record.attribute("error.type") == "EMFILE"
                && record.resource("process.pid") == self.pid
                && record.attribute("acceptd.listener.port") == self.port.to_string()
        };
        let count = |record: &Record| record.attribute("acceptd.failure.count").parse::<u64>();
        let told = records.iter().filter(is_of).map(count).sum::<Result<u64, _>>().context("a count")?;
        ensure!(told == self.emfile, "strace counted EMFILE {} times, the agent {told}", self.emfile);
        Ok(())
    }
}
