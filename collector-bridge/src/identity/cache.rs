//! The identities of the processes and of the agent: builds their Resources, keeps those of processes in a
//! bounded cache, and schedules reads of what a process publishes later. A process that was evicted is
//! observed again at its next event.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use acceptd_common::{ServiceVariable, Task, limits::COMM_LEN};
use acceptd_otlp::{DISTRO_NAME, DeclaredAttributes, EncodedResource, Process, ProcessDetails, names};
use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    unsync::{Cache, DefaultLifecycle},
};

use super::{
    environments::{Environments, ProgramStart},
    host::HostFacts,
    key::ProcessKey,
    process::{Observer, title},
    published::{self, PublishedAttributes},
    reader::{ReadRequest, ReadResult, ReadScope, ReaderPool},
};
use crate::config::Detail;

/// Number of cached processes. At about 2 KiB each they take 8 MiB. The upper bound is 24 KiB each, for
/// processes with the longest possible texts while all of `resource.include` is configured.
const PROCESSES: usize = 4096;

/// How long a record waits, beyond the batch timeout, for what a new process publishes about itself.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);

/// Shortest time between two changes of `process.title`, so that a process cannot keep the agent busy.
const RENAME_INTERVAL: Duration = Duration::from_secs(1);

/// Delay before a process is read for the second time, because an SDK may publish later than the first
/// accept. The delay doubles with each further read, up to [`MAX_REREAD_DELAY`].
const FIRST_REREAD_DELAY: Duration = Duration::from_secs(1);

/// See [`FIRST_REREAD_DELAY`].
const MAX_REREAD_DELAY: Duration = Duration::from_mins(1);

/// The facts that records need about their process.
#[derive(Debug)]
pub struct Identity {
    /// Number of the process, unique within one run of the agent. It stays the same when the Resource is
    /// encoded again.
    pub key: u64,
    /// The encoded Resource.
    pub resource: EncodedResource,
    /// `process.executable.name`, raw bytes. A kernel thread has no executable; its name in brackets stands
    /// here.
    pub name: Vec<u8>,
    /// `service.name`
    pub service: String,
    /// `container.id`
    pub container_id: Option<String>,
    /// `k8s.pod.uid`
    pub pod_uid: Option<String>,
}

/// The part of the configuration that decides what a Resource contains besides observed facts.
#[derive(Debug, Clone)]
pub struct ResourceSettings {
    /// Attributes added to every Resource (`resource.attributes`).
    pub attributes: Vec<(String, String)>,
    /// Attributes added to the agent's own Resource (`OTEL_RESOURCE_ATTRIBUTES`).
    pub agent_attributes: Vec<(String, String)>,
    /// Whether to read what processes publish about themselves (`resource.published`).
    pub published: bool,
    /// Further details of each process (`resource.include`).
    pub details: Vec<Detail>,
    /// Length at which attribute values are truncated, in bytes.
    pub value_length: usize,
}

/// The cache of identities.
pub struct Identities {
    cache: Cache<ProcessKey, CachedProcess, UnitWeighter, RandomState>,
    observer: Observer,
    /// Reads the memory of processes; `None` if nothing configured needs that, or no `/proc` shows the host's
    /// processes.
    readers: Option<ReaderPool>,
    /// Number of new processes whose first answer has not come yet.
    awaited: usize,
    /// Until when records wait for those answers.
    awaited_until: Option<Instant>,
    environments: Environments,
    builder: IdentityBuilder,
    agent: Option<Arc<Identity>>,
    next_key: u64,
}

/// Builds identities from the host's facts and the configuration.
struct IdentityBuilder {
    facts: HostFacts,
    settings: ResourceSettings,
}

impl IdentityBuilder {
    fn build(&self, key: u64, process: &Process, published: &PublishedAttributes) -> Arc<Identity> {
        let declared = DeclaredAttributes { by_process: published, by_operator: &self.settings.attributes };
        let resource =
            EncodedResource::for_process(&self.facts.host, process, declared, self.settings.value_length);
        let service = process.service_name(declared, self.settings.value_length);
        Arc::new(Identity {
            key,
            resource,
            name: process.executable_name.clone(),
            service,
            container_id: process.container_id.clone(),
            pod_uid: process.pod_uid.clone(),
        })
    }
}

struct CachedProcess {
    identity: Arc<Identity>,
    process: Process,
    /// The comm of which `process.title` was made, and when.
    comm: [u8; COMM_LEN],
    named: Instant,
    /// The start of its program, as far as it is known.
    start: Option<ProgramStart>,
    published: PublishedAttributes,
    /// When the process is to be read next, and the delay until the read after that; `None` if it cannot be
    /// read.
    next_read: Option<(Instant, Duration)>,
    /// Whether records wait for the first answer.
    is_awaited: bool,
}

impl Identities {
    /// An empty cache.
    #[must_use]
    pub fn new(facts: HostFacts, observer: Observer, settings: ResourceSettings) -> Self {
        let scope = ReadScope { published: settings.published, details: settings.details.clone() };
        let reads_something = scope.published || !scope.details.is_empty();
        let readers = observer.proc().filter(|_| reads_something).map(|proc| ReaderPool::new(proc, scope));
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
            awaited_until: None,
            environments: Environments::new(),
            builder: IdentityBuilder { facts, settings },
            agent: None,
            next_key: 0,
        }
    }

    /// The identity of the process that `task` belongs to, with what is known about the process at `now`.
    /// Never waits for the process.
    pub fn for_task(&mut self, task: &Task, now: Instant) -> Arc<Identity> {
        let key = ProcessKey::from_task(task);
        let is_renamed = |known: &CachedProcess| {
            known.comm != task.leader_comm && now.duration_since(known.named) >= RENAME_INTERVAL
        };
        if self.cache.get(&key).is_some_and(is_renamed) {
            self.rename(key, task, now);
        }
        if let Some(known) = self.cache.get(&key) {
            let identity = Arc::clone(&known.identity);
            if known.next_read.is_some_and(|(due, _)| due <= now) {
                self.request_read(key, now);
            }
            return identity;
        }
        let (process, is_running) =
            self.observer.observe_and_check(task, self.builder.facts.boot_time_unix_ns);
        self.next_key += 1;
        let start = ProgramStart::from_task(task);
        let published = start.as_ref().map(|start| self.environments.first_read(start)).unwrap_or_default();
        let identity = self.builder.build(self.next_key, &process, &published);
        // A process that has exited, or runs another program, has no memory to read.
        let can_be_read = self.readers.is_some() && is_running;
        let known = CachedProcess {
            identity: Arc::clone(&identity),
            process,
            comm: task.leader_comm,
            named: now,
            start,
            published,
            next_read: can_be_read.then_some((now, FIRST_REREAD_DELAY)),
            is_awaited: can_be_read,
        };
        self.cache.insert(key, known);
        if can_be_read && self.request_read(key, now) {
            if self.awaited_until.is_none_or(|until| until < now) {
                self.awaited = 0;
            }
            self.awaited += 1;
            self.awaited_until = Some(now + ANSWER_TIMEOUT);
        }
        identity
    }

    /// Takes the service's name that the environment of `task` had when it began to listen. Returns the new
    /// identity of its process, with the same key, if the process was known without a name.
    pub fn began_to_listen(&mut self, task: &Task, variable: &ServiceVariable) -> Option<Arc<Identity>> {
        self.readers.as_ref().filter(|readers| readers.shares_environments())?;
        let read = published::from_variable(variable);
        if read.is_empty() {
            return None;
        }
        self.environments.remember_some(ProgramStart::from_task(task)?, &read);
        let mut known = self.cache.get_mut(&ProcessKey::from_task(task))?;
        if known.published.contains_key(names::SERVICE_NAME) {
            return None;
        }
        known.published.extend(read);
        known.identity = self.builder.build(known.identity.key, &known.process, &known.published);
        Some(Arc::clone(&known.identity))
    }

    /// Takes the process's new comm into its Resource.
    fn rename(&mut self, key: ProcessKey, task: &Task, now: Instant) {
        let Some(mut known) = self.cache.get_mut(&key) else { return };
        (known.comm, known.named) = (task.leader_comm, now);
        known.process.title = title(task, &known.process.executable_name);
        known.identity = self.builder.build(known.identity.key, &known.process, &known.published);
    }

    /// Requests a read of the process's memory. Returns false if the request could not be queued; a later
    /// event repeats it.
    fn request_read(&mut self, key: ProcessKey, now: Instant) -> bool {
        let Some(mut known) = self.cache.get_mut(&key) else { return false };
        known.next_read = known.next_read.map(|(_, delay)| (now + delay, (2 * delay).min(MAX_REREAD_DELAY)));
        let Some(ProgramStart { arg_start, .. }) = known.start else { return false };
        let Some(executable) = known.process.executable_path.clone() else { return false };
        let request = ReadRequest { key, executable, arg_start };
        self.readers.as_mut().is_some_and(|readers| readers.request(request))
    }

    /// Whether records should still wait for what a new process publishes about itself.
    #[must_use]
    pub fn is_waiting_for_answers(&self) -> bool {
        self.awaited > 0 && self.awaited_until.is_some_and(|until| Instant::now() < until)
    }

    /// The next process about which more is known than before: its new identity, with the same key. `None` if
    /// there is none.
    pub fn next_completed(&mut self) -> Option<Arc<Identity>> {
        while let Some(answer) = self.readers.as_ref()?.try_next() {
            let ReadResult { key, environment, is_random, context, details } = answer;
            let Some(mut known) = self.cache.get_mut(&key) else { continue };
            self.awaited = self.awaited.saturating_sub(usize::from(std::mem::take(&mut known.is_awaited)));
            // A process that exits or rewrites its context publishes less for a moment: keep what it
            // published before.
            let mut published = known.published.clone();
            published.extend(published::merged(&environment, context));
            if let Some(start) = known.start.filter(|_| is_random) {
                self.environments.remember(start, &environment);
            }
            let has_new_details = details != ProcessDetails::default() && details != known.process.details;
            if published == known.published && !has_new_details {
                continue;
            }
            known.published = published;
            if has_new_details {
                known.process.details = details;
            }
            known.identity = self.builder.build(known.identity.key, &known.process, &known.published);
            return Some(Arc::clone(&known.identity));
        }
        None
    }

    /// The identity of the agent itself. Events whose process is unknown carry it, too.
    pub fn agent(&mut self) -> Arc<Identity> {
        if let Some(agent) = &self.agent {
            return Arc::clone(agent);
        }
        let mut process = self.observer.observe_self(self.builder.facts.boot_time_unix_ns);
        process.details = self.observer.details(process.pid, &self.builder.settings.details);
        // The agent's own attributes count as published by the agent.
        let mut published: PublishedAttributes =
            self.builder.settings.agent_attributes.iter().cloned().collect();
        let name = published.entry(names::SERVICE_NAME.to_owned()).or_default();
        if name.is_empty() {
            DISTRO_NAME.clone_into(name);
        }
        self.next_key += 1;
        let agent = self.builder.build(self.next_key, &process, &published);
        self.agent = Some(Arc::clone(&agent));
        agent
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use zerocopy::FromZeros as _;

    use super::{super::host, *};

    fn identities() -> Identities {
        let (facts, _) = host::gather(Path::new("/"), Some("id"), Some("here"), Path::new("/nonexistent"));
        let settings = ResourceSettings {
            attributes: Vec::new(),
            agent_attributes: Vec::new(),
            published: false,
            details: Vec::new(),
            value_length: 1024,
        };
        let observer = Observer::new(Path::new("/"), Path::new("/sys/fs/cgroup"));
        Identities::new(facts, observer, settings)
    }

    /// A process may name itself after its first event.
    #[test]
    fn a_process_that_changes_its_comm_has_the_new_title() {
        let mut identities = identities();
        let mut task = Task::new_zeroed();
        task.tgid = u32::MAX;
        task.exe_len = 4;
        task.exe[..4].copy_from_slice(b"ruby");
        let now = Instant::now();
        let title = |identity: &Identity| identity.resource.as_bytes().windows(4).any(|part| part == b"puma");
        let first = identities.for_task(&task, now);
        task.leader_comm[..4].copy_from_slice(b"puma");
        assert!(!title(&first) && !title(&identities.for_task(&task, now)), "not more than once a second");
        let renamed = identities.for_task(&task, now + RENAME_INTERVAL);
        assert!(title(&renamed));
        assert_eq!(renamed.key, first.key, "it is the same process");
    }

    /// Servers that listen as root and accept as another user do this.
    #[test]
    fn a_process_that_changes_its_user_gets_another_identity() {
        let mut identities = identities();
        let mut task = Task::new_zeroed();
        task.tgid = u32::MAX;
        let root = identities.for_task(&task, Instant::now());
        task.euid = 33;
        let other = identities.for_task(&task, Instant::now());
        assert_ne!((root.key, &root.resource), (other.key, &other.resource));
        assert_eq!(identities.for_task(&task, Instant::now()).key, other.key, "and is kept");
    }
}
