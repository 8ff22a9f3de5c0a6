//! A server with `ulimit -n 64` and more clients than descriptors. strace counts the EMFILE; the agent's
//! records of failures must have the same sum.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    e2e::deadlines::READY,
    host,
    process::{Running, until},
    records::Record,
};

const LIMIT: usize = 64;
const CLIENTS: usize = 100;
/// How many failures to wait for: more than the agent's budget of single records, so that it aggregates some.
const FAILURES: u64 = 200;

/// Keeps every connection open. After a failed accept, tries again a millisecond later.
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

/// The server, and what strace counted.
pub(super) struct Exhausted {
    pub(super) emfile: u64,
    port: u16,
    pid: String,
}

pub(super) fn measure(folder: &Path) -> Result<Exhausted> {
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
    // strace writes its last lines after the server has exited.
    until("strace to end", READY, || Ok(server.has_exited()?.then_some(())))?;
    Ok(Exhausted { emfile: emfile(&trace)?, port, pid })
}

/// How many lines of a trace have that error.
fn emfile(trace: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(trace).with_context(|| format!("reading {}", trace.display()))?;
    Ok(text.lines().filter(|line| line.contains("= -1 EMFILE")).count() as u64)
}

impl Exhausted {
    /// Compares the sum of the agent's records with strace's count.
    pub(super) fn check(&self, records: &[Record]) -> Result<()> {
        let is_from_server = |record: &&Record| {
            record.event_name == "acceptd.listener.failures"
                && record.attribute("error.type") == "EMFILE"
                && record.resource("process.pid") == self.pid
                && record.attribute("acceptd.listener.port") == self.port.to_string()
        };
        let count = |record: &Record| record.attribute("acceptd.failure.count").parse::<u64>();
        let reported =
            records.iter().filter(is_from_server).map(count).sum::<Result<u64, _>>().context("a count")?;
        ensure!(reported == self.emfile, "strace counted EMFILE {} times, the agent {reported}", self.emfile);
        Ok(())
    }
}
