//! Whose accept it is: one Resource for each process, made at its first accept and kept.
//!
//! The kernel gave what vanishes with a process; `/proc` completes it here, off every hook. The cache is bounded:
//! a process that falls out of it is looked up again.

pub mod passwd;
pub mod process;

use std::sync::Arc;

use acceptd_common::Task;
use acceptd_otlp::{DISTRO_NAME, EncodedResource, Process, names};
use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    unsync::{Cache, DefaultLifecycle},
};

use crate::host::HostFacts;
use process::Observer;

/// Processes whose Resource is kept: at some 1 KiB each, 4 MiB.
const PROCESSES: usize = 4096;

/// A process in this boot. Exec changes neither pid nor start time, so the exec id is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ProcessKey {
    tgid: u32,
    leader_start_ns: u64,
    exec_id: u32,
}

/// What records need of their process.
#[derive(Debug)]
pub struct Identity {
    /// Unique for each process of this run.
    pub key: u64,
    /// The encoded Resource.
    pub resource: EncodedResource,
    /// `process.executable.name`, raw bytes; of a kernel thread, which has none, its name in brackets.
    pub name: Vec<u8>,
}

/// The cache of identities.
pub struct Identities {
    cache: Cache<ProcessKey, Arc<Identity>, UnitWeighter, RandomState>,
    observer: Observer,
    facts: HostFacts,
    extra: Vec<(String, String)>,
    /// Of the agent's own Resource.
    own: Vec<(String, String)>,
    agent: Option<Arc<Identity>>,
    value_length: usize,
    next_key: u64,
}

impl Identities {
    /// An empty cache. `extra` is added to every Resource (`resource.attributes`), `own` to the agent's
    /// (`OTEL_RESOURCE_ATTRIBUTES`); values are cut at `value_length` bytes.
    #[must_use]
    pub fn new(
        facts: HostFacts,
        observer: Observer,
        extra: Vec<(String, String)>,
        own: Vec<(String, String)>,
        value_length: usize,
    ) -> Self {
        Self {
            cache: Cache::with(
                PROCESSES,
                PROCESSES as u64,
                UnitWeighter,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            observer,
            facts,
            extra,
            own,
            agent: None,
            value_length,
            next_key: 0,
        }
    }

    /// The identity of the process that `task` belongs to.
    pub fn of(&mut self, task: &Task) -> Arc<Identity> {
        let key =
            ProcessKey { tgid: task.tgid, leader_start_ns: task.leader_start_ns, exec_id: task.exec_id };
        if let Some(known) = self.cache.get(&key) {
            return Arc::clone(known);
        }
        let process = self.observer.observe(task, self.facts.boot_time_unix_ns);
        let extra = self.extra.clone();
        let identity = self.made_of(process, &extra);
        self.cache.insert(key, Arc::clone(&identity));
        identity
    }

    /// The identity of the agent itself, for events that no other process is known of.
    pub fn agent(&mut self) -> Arc<Identity> {
        if let Some(agent) = &self.agent {
            return Arc::clone(agent);
        }
        let mut process = self.observer.observe_self(self.facts.boot_time_unix_ns);
        let named = self.own.iter().find(|(key, value)| key == names::SERVICE_NAME && !value.is_empty());
        process.service_name = Some(named.map_or_else(|| DISTRO_NAME.to_owned(), |(_, name)| name.clone()));
        let extra = [&self.own[..], &self.extra].concat();
        let agent = self.made_of(process, &extra);
        self.agent = Some(Arc::clone(&agent));
        agent
    }

    fn made_of(&mut self, process: Process, extra: &[(String, String)]) -> Arc<Identity> {
        self.next_key += 1;
        let resource = EncodedResource::of_process(&self.facts.host, &process, extra, self.value_length);
        Arc::new(Identity { key: self.next_key, resource, name: process.executable_name })
    }
}

/// The bytes before the first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}
