//! Multipath TCP as Go servers have it without asking: five such connections and five plain ones on one listener, with
//! the agent and without.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{
        capture, {self},
    },
    records::Record,
    workspace::Workspace,
};

/// What a run of tests/golistener says of its accepts.
pub(crate) struct Accepts {
    port: String,
    all: Vec<Accept>,
}

struct Accept {
    multipath: bool,
    client: String,
    /// `SO_COOKIE`
    cookie: String,
}

impl Accepts {
    /// For each accept, how many share its cookie. Cookies themselves grow with every socket of the host.
    fn shape(&self) -> Vec<(bool, usize)> {
        let sharing = |one: &Accept| self.all.iter().filter(|other| other.cookie == one.cookie).count();
        self.all.iter().map(|accept| (accept.multipath, sharing(accept))).collect()
    }
}

/// Builds the listener.
pub(crate) fn build(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let binary = folder.join("golistener");
    let mut go = Command::new("go");
    go.args(["build", "-trimpath", "-buildvcs=false", "-o"]).arg(&binary).arg(".");
    go.current_dir(workspace.path("tests/golistener")).env_remove("GOFLAGS");
    command::run(go).context("the listener of tests/golistener did not build")?;
    Ok(binary)
}

/// Runs it once.
pub(crate) fn accept(binary: &Path) -> Result<Accepts> {
    let text = capture(Command::new(binary))?;
    let mut lines = text.lines();
    let port = lines.next().context("the Go listener said nothing")?.to_owned();
    let all = lines.map(parse).collect::<Result<Vec<_>>>()?;
    ensure!(all.len() == 10, "the Go listener accepted {} of 10 connections", all.len());
    if all.iter().filter(|accept| accept.multipath).count() != 5 {
        bail!("Go did not get Multipath TCP from this kernel: is net.mptcp.enabled 1?");
    }
    Ok(Accepts { port, all })
}

fn parse(line: &str) -> Result<Accept> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [multipath, client, cookie] = fields[..] else { bail!("not a line of the Go listener: {line:?}") };
    Ok(Accept { multipath: multipath == "true", client: client.to_owned(), cookie: cookie.to_owned() })
}

/// The records of one run.
fn of<'a>(accepts: &Accepts, records: &'a [Record]) -> Vec<&'a Record> {
    let is_of =
        |record: &&Record| record.is_accept() && record.attribute("network.local.port") == accepts.port;
    records.iter().filter(is_of).collect()
}

/// Whether as many records arrived as there were accepts.
pub(crate) fn arrived(accepts: &Accepts, records: &[Record]) -> bool {
    of(accepts, records).len() >= accepts.all.len()
}

/// Ten records with ten identities, and an application that sees the cookies that it saw without the agent.
pub(crate) fn check(without: &Accepts, with: &Accepts, records: &[Record]) -> Result<()> {
    ensure!(
        without.shape() == with.shape(),
        "SO_COOKIE changed under the agent: {:?} without, {:?} with",
        without.shape(),
        with.shape()
    );
    let records = of(with, records);
    ensure!(records.len() == with.all.len(), "{} records of ten Go accepts", records.len());
    let cookies: HashSet<&str> =
        records.iter().map(|record| record.attribute("acceptd.socket.cookie")).collect();
    ensure!(cookies.len() == with.all.len(), "ten connections, and the cookies {cookies:?}");
    for accept in &with.all {
        let is_of = |record: &&&Record| {
            let peer = format!(
                "{}:{}",
                record.attribute("network.peer.address"),
                record.attribute("network.peer.port")
            );
            peer == accept.client
        };
        let record = records.iter().find(is_of);
        let record = record.with_context(|| format!("no record of the client {}", accept.client))?;
        let multipath = record.attribute("acceptd.socket.mptcp");
        ensure!(
            multipath == if accept.multipath { "true" } else { "" },
            "the client {} is Multipath TCP: {}, and the record says {multipath:?}",
            accept.client,
            accept.multipath
        );
        let cookie = record.attribute("acceptd.socket.cookie");
        // A Multipath TCP record has the cookie of its first subflow, which applications do not see.
        ensure!(
            accept.multipath || cookie == accept.cookie,
            "SO_COOKIE of a plain connection is {}, the record says {cookie}",
            accept.cookie
        );
    }
    Ok(())
}
