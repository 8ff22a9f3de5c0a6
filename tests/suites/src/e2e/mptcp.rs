//! Multipath TCP, which Go servers use by default: five such connections and five plain ones on one listener,
//! with the agent and without it.

use std::{collections::HashSet, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use xtask_support::command::capture;

use crate::records::Record;

/// The output of tests/golistener.
pub(crate) struct GoAccepts {
    port: String,
    all: Vec<GoAccept>,
}

struct GoAccept {
    multipath: bool,
    client: String,
    /// `SO_COOKIE`
    cookie: String,
}

impl GoAccepts {
    /// For each accept, how many accepts have the same cookie. The cookies themselves differ between runs.
    fn shape(&self) -> Vec<(bool, usize)> {
        let sharing = |one: &GoAccept| self.all.iter().filter(|other| other.cookie == one.cookie).count();
        self.all.iter().map(|accept| (accept.multipath, sharing(accept))).collect()
    }
}

/// Runs the listener, which accepts ten connections of its own clients.
pub(crate) fn accept(binary: &Path) -> Result<GoAccepts> {
    let text = capture(Command::new(binary))?;
    let mut lines = text.lines();
    let port = lines.next().context("the Go listener said nothing")?.to_owned();
    let all = lines.map(parse).collect::<Result<Vec<_>>>()?;
    ensure!(all.len() == 10, "the Go listener accepted {} of 10 connections", all.len());
    if all.iter().filter(|accept| accept.multipath).count() != 5 {
        bail!("Go did not get Multipath TCP from this kernel: is net.mptcp.enabled 1?");
    }
    Ok(GoAccepts { port, all })
}

fn parse(line: &str) -> Result<GoAccept> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [multipath, client, cookie] = fields[..] else { bail!("not a line of the Go listener: {line:?}") };
    Ok(GoAccept { multipath: multipath == "true", client: client.to_owned(), cookie: cookie.to_owned() })
}

/// The records of one run.
fn records_of<'a>(accepts: &GoAccepts, records: &'a [Record]) -> Vec<&'a Record> {
    let is_from_listener =
        |record: &&Record| record.is_accept() && record.attribute("network.local.port") == accepts.port;
    records.iter().filter(is_from_listener).collect()
}

/// Whether as many records arrived as there were accepts.
pub(crate) fn have_arrived(accepts: &GoAccepts, records: &[Record]) -> bool {
    records_of(accepts, records).len() >= accepts.all.len()
}

/// Fails unless there are ten records with ten cookies, and the application sees the same pattern of cookies
/// as without the agent.
pub(crate) fn check(without: &GoAccepts, with: &GoAccepts, records: &[Record]) -> Result<()> {
    ensure!(
        without.shape() == with.shape(),
        "SO_COOKIE changed under the agent: {:?} without, {:?} with",
        without.shape(),
        with.shape()
    );
    let records = records_of(with, records);
    ensure!(records.len() == with.all.len(), "{} records of ten Go accepts", records.len());
    let cookies: HashSet<&str> =
        records.iter().map(|record| record.attribute("acceptd.socket.cookie")).collect();
    ensure!(cookies.len() == with.all.len(), "ten connections, and the cookies {cookies:?}");
    for accept in &with.all {
        let is_from_client = |record: &&&Record| {
            let peer = format!(
                "{}:{}",
                record.attribute("network.peer.address"),
                record.attribute("network.peer.port")
            );
            peer == accept.client
        };
        let record = records.iter().find(is_from_client);
        let record = record.with_context(|| format!("no record of the client {}", accept.client))?;
        let multipath = record.attribute("acceptd.socket.mptcp");
        ensure!(
            multipath == if accept.multipath { "true" } else { "" },
            "the client {} is Multipath TCP: {}, and the record says {multipath:?}",
            accept.client,
            accept.multipath
        );
        let cookie = record.attribute("acceptd.socket.cookie");
        // The record of a Multipath TCP connection has the cookie of its first subflow, which `SO_COOKIE`
        // does not return.
        ensure!(
            accept.multipath || cookie == accept.cookie,
            "SO_COOKIE of a plain connection is {}, the record says {cookie}",
            accept.cookie
        );
    }
    Ok(())
}
