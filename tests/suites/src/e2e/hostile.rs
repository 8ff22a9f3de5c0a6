//! Processes and threads whose names would attack a terminal, or make a Collector reject a whole request. The
//! kernel allows any bytes in both.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{process::first_line, records::Record};

/// The bytes of an executable's name, and the text that must arrive for it.
const EXECUTABLES: [(&[u8], &str); 4] = [
    (b"esc\x1b[2J\x07", r"esc\x1b[2J\x07"),
    (b"line\nbreak\r\x7f", r"line\x0abreak\x0d\x7f"),
    (b"not-utf8\xff\xc3(\x80", r"not-utf8\xff\xc3(\x80"),
    (b"back\\slash \"quote\" \xc2\x9b", r#"back\\slash "quote" \xc2\x9b"#),
];

/// The bytes of the accepting thread's name, and the text that must arrive for it.
const THREAD: (&[u8], &str) = (b"t\x1b]0;\xfe\n\\", r"t\x1b]0;\xfe\x0a\\");

/// A process with such a name, which accepted one connection.
pub(crate) struct Hostile {
    port: u16,
    name: &'static str,
}

/// Runs a copy of this program under each name. Each copy accepts one connection.
pub(crate) fn accept_under_each_name(folder: &Path) -> Result<Vec<Hostile>> {
    let this = std::env::current_exe().context("this program has no path")?;
    let run = |(raw, name): (&[u8], &'static str)| -> Result<Hostile> {
        let copy = folder.join(OsStr::from_bytes(raw));
        fs::copy(&this, &copy).with_context(|| format!("copying this program to {}", copy.display()))?;
        let mut child =
            Command::new(&copy).arg("accept-once").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let port = first_line(&mut child)?.parse().context("the accepting process did not say its port")?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting to the accepting process")?;
        ensure!(child.wait()?.success(), "the accepting process failed");
        Ok(Hostile { port, name })
    };
    EXECUTABLES.into_iter().map(run).collect()
}

/// `suites accept-once`: prints its port, accepts once in a thread with a hostile name, and exits at the end
/// of its standard input.
pub(crate) fn accept_once() -> Result<()> {
    let name = std::ffi::CString::new(THREAD.0).context("a thread's name ends at a NUL")?;
    rustix::thread::set_name(&name).context("naming the thread")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    println!("{}", listener.local_addr()?.port());
    listener.accept().context("accepting")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// The record of a process.
pub(crate) fn find<'a>(hostile: &Hostile, records: &'a [Record]) -> Option<&'a Record> {
    let port = hostile.port.to_string();
    records.iter().find(|record| record.is_accept() && record.attribute("network.local.port") == port)
}

/// Fails unless the record of every process arrived with printable names.
pub(crate) fn check(all: &[Hostile], records: &[Record]) -> Result<()> {
    for hostile in all {
        let name = hostile.name;
        let record =
            find(hostile, records).with_context(|| format!("no record of the process called {name}"))?;
        let arrived = record.resource("process.executable.name");
        ensure!(arrived == name, "the process called {name} arrived as {arrived:?}");
        let thread = record.attribute("acceptd.thread.name");
        ensure!(thread == THREAD.1, "the thread called {} arrived as {thread:?}", THREAD.1);
        ensure!(record.body.starts_with(&format!("{name}[")), "the body is {:?}", record.body);
        ensure!(
            !record.body.chars().any(char::is_control),
            "the body is not one printable line: {:?}",
            record.body
        );
    }
    Ok(())
}
