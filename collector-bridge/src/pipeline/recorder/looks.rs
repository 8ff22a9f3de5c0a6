//! What is found of listeners at each look, as it becomes series and records.

use std::collections::HashSet;

use acceptd_common::{FailureKey, Failures, Listener, ListenerState, Lives, UnixName};
use zerocopy::FromZeros as _;

use super::{Recorder, push_event};
use crate::{
    clock,
    listener::{series::Series, table::What},
    mapping::{
        listener::Owner,
        {self},
    },
};

/// Looks without a new failure after which a count is forgotten, to make room in the kernel's map.
const IDLE_LOOKS: u32 = 60;

impl Recorder {
    /// Takes the state of every listener at this moment.
    pub fn surveyed(&mut self, states: &[ListenerState]) {
        self.begin_burst();
        let now = clock::now_boot_nanos();
        self.parts.listeners.surveyed(states, now);
        for state in states {
            let inode = state.listener.inode;
            // What was accepted there passed the filter in the kernel, whoever listens.
            if self.parts.filter.passes(&state.listener, Some(&state.owner)) || self.parts.series.has(inode) {
                self.name_series(inode);
            }
            let waited = self.parts.listeners.by_inode(inode).and_then(|known| known.oldest_wait_ns(now));
            let Listener { backlog_length, backlog_limit, .. } = state.listener;
            self.parts.series.looked(inode, backlog_length, backlog_limit, waited.unwrap_or_default());
            if backlog_length > 0 {
                Self::say_state(state, waited.unwrap_or_default());
            }
        }
        let listeners = &self.parts.listeners;
        self.parts.series.retain(now, |inode| listeners.by_inode(inode).is_some());
        self.tell_findings();
    }

    /// For a person who watches a listener (`log.level=debug`).
    fn say_state(state: &ListenerState, waited: u64) {
        tracing::debug!(
            "{}: {} of {} connections wait, the oldest for {} ms",
            mapping::shown(&state.listener, &state.name),
            state.listener.backlog_length,
            state.listener.backlog_limit,
            waited / 1_000_000,
        );
    }

    pub(super) fn tell_findings(&mut self) {
        for finding in self.parts.listeners.findings() {
            if let What::Overflow { count } = finding.what {
                self.parts.series.overflowed(finding.known.listener.inode, count);
            }
            let wanted = match finding.what {
                What::Overflow { .. } => self.parts.events.overflow,
                What::Stalled | What::Recovered { .. } => self.parts.events.stalled,
            };
            let owner = finding.known.owner.as_ref();
            if !wanted || !self.parts.filter.passes(&finding.known.listener, owner) {
                continue;
            }
            let identity = self.identity_of(owner);
            let whose = Owner { identity: &identity, pid: owner.map(|task| task.tgid) };
            let uid = self.own_uid();
            let event = mapping::listener::finding(&finding, uid, whose, self.context());
            let pushed = push_event(&mut self.parts, &identity, &event);
            self.pushed(pushed);
        }
    }

    /// Takes the kernel's counts of failures at this moment; says which may be forgotten.
    pub fn failed(&mut self, counts: &[(FailureKey, Failures)]) -> Vec<FailureKey> {
        self.begin_burst();
        let now = clock::now_boot_nanos();
        let interval_ns = now.saturating_sub(std::mem::replace(&mut self.looked_boot_ns, now));
        let mut idle = Vec::new();
        for (key, failures) in counts {
            let (told, looks) = self.failures.entry(*key).or_default();
            let count = failures.count.saturating_sub(*told);
            *told = failures.count;
            *looks = if count == 0 { *looks + 1 } else { 0 };
            self.parts.series.failed(key.listener, key.errno, count);
            if *looks > IDLE_LOOKS {
                self.failures.remove(key);
                idle.push(*key);
            } else if count > 0 && self.parts.events.failures {
                self.tell_failures(key, failures, count, now, interval_ns);
            }
        }
        idle
    }

    fn tell_failures(&mut self, key: &FailureKey, first: &Failures, count: u64, now: u64, interval_ns: u64) {
        let identity = self.parts.identities.of(&first.task, self.now);
        let owner = Owner { identity: &identity, pid: Some(first.task.tgid) };
        let name = self.parts.listeners.by_inode(key.listener).map(|known| known.name);
        let name = name.unwrap_or_else(UnixName::new_zeroed);
        let failed = mapping::listener::FailureCount { key, first, count, interval_ns, name: &name };
        let uid = self.own_uid();
        let event = mapping::listener::failures(failed, now, uid, owner, self.context());
        let pushed = push_event(&mut self.parts, &identity, &event);
        self.pushed(pushed);
    }

    /// Finds out what a listener is called by now, if it may be told of.
    pub(super) fn name_series(&mut self, inode: u64) {
        let Some(known) = self.parts.listeners.by_inode(inode) else { return };
        let (listener, name, owner) = (known.listener, known.name, known.owner);
        let owner = owner.map(|task| self.parts.identities.of(&task, self.now));
        let labels = mapping::listener::labels(&listener, &name, owner.as_deref());
        self.parts.series.name(inode, labels, self.observed_unix_ns);
    }

    /// What was counted of listeners.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        self.parts.series.snapshot()
    }

    /// Takes the kernel's counts of open connections at this moment; says of which listeners nobody needs them any more.
    pub fn lived(&mut self, counts: &[(u64, Lives)]) -> Vec<u64> {
        let mut unknown = HashSet::new();
        for (listener, lives) in counts {
            if !self.parts.series.lived(*listener, lives) {
                unknown.insert(*listener);
            }
        }
        // One that is new may not be known before the next look.
        let gone = unknown.intersection(&self.unknown).copied().collect();
        self.unknown = unknown;
        gone
    }
}
