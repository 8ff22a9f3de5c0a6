//! Whose accept it is: one Resource for each process, made at its first accept and kept.
//!
//! The kernel gave what vanishes with a process; `/proc` completes it here, off every hook, and what the process says of itself
//! comes later (`reader.rs`): its Resource is made anew then. The cache is bounded: a process that falls out of it is looked up
//! again.

pub mod cgroup;
mod context;
mod details;
mod folder;
pub mod host;
pub mod passwd;
pub mod process;
mod published;
mod reader;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use acceptd_common::Task;
use acceptd_otlp::{DISTRO_NAME, Details, EncodedResource, Process, Said, names};
use foldhash::fast::RandomState;
use process::Observer;
use published::Published;
use quick_cache::{
    UnitWeighter,
    unsync::{Cache, DefaultLifecycle},
};
use reader::{Answer, Question, Readers, Wanted};

use crate::{config::Detail, identity::host::HostFacts};

/// Processes whose Resource is kept: at some 2 KiB each, 8 MiB; at 24 KiB each, if every one makes as much of itself as it can and all
/// of that is wanted (`resource.include`).
const PROCESSES: usize = 4096;

/// How long a record waits for what a new process says of itself, beyond what it waits anyway.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// How long after the first look a process is asked again what it publishes: an SDK may be slower than the first accept. Each time
/// it is asked later by twice as much, up to [`ASK_LATEST`].
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// See [`ASK_AGAIN`].
const ASK_LATEST: Duration = Duration::from_mins(1);

/// A process in this boot. Exec changes neither pid nor start time, so the exec id is part of it, and so are its users: servers
/// listen as root, and accept as somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ProcessKey {
    tgid: u32,
    leader_start_ns: u64,
    exec_id: u32,
    euid: u32,
    uid: u32,
}

impl ProcessKey {
    fn of(task: &Task) -> Self {
        let Task { tgid, leader_start_ns, exec_id, euid, uid, .. } = *task;
        Self { tgid, leader_start_ns, exec_id, euid, uid }
    }
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
    /// `service.name`
    pub service: String,
}

/// What is added to what is observed.
#[derive(Debug, Clone)]
pub struct Additions {
    /// To every Resource (`resource.attributes`).
    pub every: Vec<(String, String)>,
    /// To the agent's own (`OTEL_RESOURCE_ATTRIBUTES`).
    pub own: Vec<(String, String)>,
    /// Whether processes are asked what they publish of themselves (`resource.published`).
    pub published: bool,
    /// What else is told of each (`resource.include`).
    pub details: Vec<Detail>,
    /// Where texts are cut, in bytes.
    pub value_length: usize,
}

/// The cache of identities.
pub struct Identities {
    cache: Cache<ProcessKey, Known, UnitWeighter, RandomState>,
    observer: Observer,
    readers: Option<Readers>,
    /// New processes that have not answered, and until when they are waited for.
    awaited: usize,
    patient_until: Option<Instant>,
    maker: Maker,
    agent: Option<Arc<Identity>>,
    next_key: u64,
}

/// What every identity is made with.
struct Maker {
    facts: HostFacts,
    additions: Additions,
}

impl Maker {
    fn make(&self, key: u64, process: &Process, published: &Published) -> Arc<Identity> {
        let said = Said { by_itself: published, by_the_operator: &self.additions.every };
        let resource =
            EncodedResource::of_process(&self.facts.host, process, said, self.additions.value_length);
        let service = process.service_name(said, self.additions.value_length);
        Arc::new(Identity { key, resource, name: process.executable_name.clone(), service })
    }
}

struct Known {
    identity: Arc<Identity>,
    process: Process,
    /// See [`Question`].
    arg_start: u64,
    published: Published,
    /// When it is to be asked again, and how long after that once more; never without a reader.
    ask: Option<(Instant, Duration)>,
    /// Whether its first answer is waited for.
    is_awaited: bool,
}

impl Identities {
    /// An empty cache.
    #[must_use]
    pub fn new(facts: HostFacts, observer: Observer, additions: Additions) -> Self {
        let wanted = Wanted { published: additions.published, details: additions.details.clone() };
        let wants_some = wanted.published || !wanted.details.is_empty();
        let readers = observer.proc().filter(|_| wants_some).map(|proc| Readers::new(proc, wanted));
        Self {
            cache: Cache::with(
                PROCESSES,
                PROCESSES as u64,
                UnitWeighter,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            observer,
            readers,
            awaited: 0,
            patient_until: None,
            maker: Maker { facts, additions },
            agent: None,
            next_key: 0,
        }
    }

    /// The identity of the process that `task` belongs to, as it is known `now`.
    pub fn of(&mut self, task: &Task, now: Instant) -> Arc<Identity> {
        let key = ProcessKey::of(task);
        if let Some(known) = self.cache.get(&key) {
            let identity = Arc::clone(&known.identity);
            if known.ask.is_some_and(|(due, _)| due <= now) {
                self.ask(key, now);
            }
            return identity;
        }
        let process = self.observer.observe(task, self.maker.facts.boot_time_unix_ns);
        self.next_key += 1;
        let identity = self.maker.make(self.next_key, &process, &Published::new());
        // One that is gone, or has become another program, has nothing to say any more.
        let can_be_asked = self.readers.is_some() && process.executable_path.is_some();
        let known = Known {
            identity: Arc::clone(&identity),
            process,
            arg_start: task.arg_start,
            published: Published::new(),
            ask: can_be_asked.then_some((now, ASK_AGAIN)),
            is_awaited: can_be_asked,
        };
        self.cache.insert(key, known);
        if can_be_asked && self.ask(key, now) {
            if self.patient_until.is_none_or(|until| until < now) {
                self.awaited = 0;
            }
            self.awaited += 1;
            self.patient_until = Some(now + PATIENCE);
        }
        identity
    }

    /// Asks what only the process's own memory tells. False when it is not asked now, but later.
    fn ask(&mut self, key: ProcessKey, now: Instant) -> bool {
        let Some(mut known) = self.cache.get_mut(&key) else { return false };
        known.ask = known.ask.map(|(_, pause)| (now + pause, (2 * pause).min(ASK_LATEST)));
        let Some(executable) = known.process.executable_path.clone() else { return false };
        let arg_start = known.arg_start;
        self.readers.as_mut().is_some_and(|readers| readers.ask(Question { key, executable, arg_start }))
    }

    /// Whether records wait for what a process says of itself.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.awaited > 0 && self.patient_until.is_some_and(|until| Instant::now() < until)
    }

    /// A process of which more is known by now: its identity, with the key that it had.
    pub fn completed(&mut self) -> Option<Arc<Identity>> {
        while let Some(Answer { key, published: said, details }) = self.readers.as_ref()?.answer() {
            let Some(mut known) = self.cache.get_mut(&key) else { continue };
            self.awaited = self.awaited.saturating_sub(usize::from(std::mem::take(&mut known.is_awaited)));
            // One that ends, or writes it anew, says less for a moment, and is still who it was.
            let mut published = known.published.clone();
            published.extend(said);
            let tells_details = details != Details::default() && details != known.process.details;
            if published == known.published && !tells_details {
                continue;
            }
            known.published = published;
            if tells_details {
                known.process.details = details;
            }
            known.identity = self.maker.make(known.identity.key, &known.process, &known.published);
            return Some(Arc::clone(&known.identity));
        }
        None
    }

    /// The identity of the agent itself, for events that no other process is known of.
    pub fn agent(&mut self) -> Arc<Identity> {
        if let Some(agent) = &self.agent {
            return Arc::clone(agent);
        }
        let mut process = self.observer.observe_self(self.maker.facts.boot_time_unix_ns);
        process.details = self.observer.details(process.pid, &self.maker.additions.details);
        // What the operator says of the agent, it says itself.
        let mut said: Published = self.maker.additions.own.iter().cloned().collect();
        let name = said.entry(names::SERVICE_NAME.to_owned()).or_default();
        if name.is_empty() {
            DISTRO_NAME.clone_into(name);
        }
        self.next_key += 1;
        let agent = self.maker.make(self.next_key, &process, &said);
        self.agent = Some(Arc::clone(&agent));
        agent
    }
}

/// The bytes before the first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use zerocopy::FromZeros as _;

    use super::*;

    /// As servers that listen as root and accept as somebody else.
    #[test]
    fn who_becomes_another_user_is_told_as_that_one() {
        let (facts, _) = crate::identity::host::gather(
            Path::new("/"),
            Some("id"),
            Some("here"),
            Path::new("/nonexistent"),
        );
        let additions = Additions {
            every: Vec::new(),
            own: Vec::new(),
            published: false,
            details: Vec::new(),
            value_length: 1024,
        };
        let observer = Observer::new(Path::new("/"), Path::new("/sys/fs/cgroup"));
        let mut identities = Identities::new(facts, observer, additions);
        let mut task = Task::new_zeroed();
        task.tgid = u32::MAX;
        let root = identities.of(&task, Instant::now());
        task.euid = 33;
        let other = identities.of(&task, Instant::now());
        assert_ne!((root.key, &root.resource), (other.key, &other.resource));
        assert_eq!(identities.of(&task, Instant::now()).key, other.key, "and is kept");
    }
}
