//! The reports of the agent about full queues.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::fs::fstat;

use crate::{agent::Agent, inbox::Inbox, record::Record, wait};

pub(in crate::scenarios) const OVERFLOW: &str = "acceptd.listener.overflow";
pub(in crate::scenarios) const LISTEN: &str = "acceptd.socket.listen";

pub(in crate::scenarios) fn reported(inbox: &Inbox, matches: impl Fn(&Record) -> bool) -> u64 {
    let counts = inbox.events(OVERFLOW, matches).into_iter();
    counts.map(|record| record.int("acceptd.overflow.count").expect("a count").cast_unsigned()).sum()
}

pub(in crate::scenarios) fn watching(flags: &[&str]) -> Agent {
    let interval = format!("listener.interval={}", wait::scaled_timeout(Duration::from_millis(200)));
    Agent::with_flags(&[&["--set", interval.as_str()], flags].concat())
}

pub(in crate::scenarios) fn inode(socket: &OwnedFd) -> Option<i64> {
    i64::try_from(fstat(socket).expect("fstat").st_ino).ok()
}
