//! The reports of the agent about full queues.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::fs::fstat;

use crate::{agent::Agent, inbox::Inbox, record::Record, wait};

pub(super) const OVERFLOW: &str = "acceptd.listener.overflow";
pub(super) const LISTEN: &str = "acceptd.socket.listen";

pub(super) fn reported(inbox: &Inbox, matches: impl Fn(&Record) -> bool) -> u64 {
    let counts = inbox.events(OVERFLOW, matches).into_iter();
    counts.map(|record| record.int("acceptd.overflow.count").expect("a count").cast_unsigned()).sum()
}

pub(super) fn watching(flags: &[&str]) -> Agent {
    let interval = format!("listener.interval={}", wait::scaled_timeout(Duration::from_millis(200)));
    Agent::with_flags(&[&["--set", interval.as_str()], flags].concat())
}

pub(super) fn inode(socket: &OwnedFd) -> Option<i64> {
    i64::try_from(fstat(socket).expect("fstat").st_ino).ok()
}
