//! Loads the programs with the kernel's offsets frozen into them, and attaches them.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use acceptd_common::{ListenerState, SocketCall};
use acceptd_otlp::causes::causes;
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, Iter, ProgramError, tp_btf::BtfTracePointLinkId},
};
use zerocopy::IntoBytes as _;

use super::{
    counters::Counters,
    failures::FailureCounts,
    offsets::{OffsetError, Value},
    survey::{self, SurveyError},
};
use crate::{filter::Filter, preflight::facts::Trial};

/// One program, under the name of the tracepoint that it is attached to.
#[derive(Debug, Clone, Copy)]
struct Hook {
    name: &'static str,
    /// What is gone without it; a hook without such a word is indispensable.
    feature: Option<&'static str>,
    /// Only attached when attempts are captured.
    for_attempts: bool,
}

const fn needed(name: &'static str) -> Hook {
    Hook { name, feature: None, for_attempts: false }
}

const fn optional(name: &'static str, feature: &'static str, for_attempts: bool) -> Hook {
    Hook { name, feature: Some(feature), for_attempts }
}

/// The table of hooks. The order is free: an accept of a connection that was not remembered yet is sent unverified.
const HOOKS: [Hook; 7] = [
    needed("inet_sock_set_state"),
    needed("tcp_destroy_sock"),
    needed("sys_exit"),
    optional("io_uring_complete", "accepts through io_uring", false),
    optional("io_uring_cqe_overflow", "accepts of an io_uring whose completion queue is full", false),
    optional("sys_enter", "accept attempts and blocked times of system calls", true),
    optional("io_uring_submit_req", "accept attempts through io_uring", true),
];

/// The iterators, each with its target.
const LISTENERS: (&str, &str) = ("survey_listeners", "task_file");
const QUEUED: (&str, &str) = ("remember_queued", "tcp");

/// What is gone without them.
const LISTENERS_FEATURE: &str = "listeners from before the start, and the state of listeners between accepts";
const QUEUED_FEATURE: &str = "the proof of connections that were queued before the start";

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("ACCEPTD_EBPF_OBJECT"));

/// Why the programs do not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's types do not fit.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    /// The object or its maps were refused.
    #[error(
        "the kernel refused acceptd's maps: {0}; acceptd needs root, or CAP_BPF and CAP_PERFMON, and Linux 5.15 or later"
    )]
    Object(String),
    /// The kernel's own BTF could not be parsed.
    #[error("the kernel's type information cannot be parsed: {0}")]
    Btf(#[from] aya::BtfError),
    /// One program was refused.
    #[error(
        "the kernel refused the program {hook}: {reason}; acceptd needs root, or CAP_BPF and CAP_PERFMON"
    )]
    Program {
        /// Name of the program.
        hook: &'static str,
        /// The error, with the verifier's last words if it had any.
        reason: String,
        /// The whole verifier log.
        verifier_log: String,
    },
    /// The object lacks a map or program that this agent expects.
    #[error("the eBPF object has no {0}: agent and programs are of different builds")]
    Incomplete(&'static str),
}

/// What the agent decides about the programs before they are loaded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of the ring buffer; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Whether accepts of the agent's own are recorded.
    pub record_self: bool,
    /// Failure records for each listener and second.
    pub failure_budget: u64,
    /// Whether binds are captured. Listens are always: the agent keeps a list of listeners.
    pub bind: bool,
    /// Whether new sockets are captured.
    pub create: bool,
    /// Whether the begin of accept is captured.
    pub attempts: bool,
    /// What is captured at all.
    pub filter: Filter,
}

impl Settings {
    /// Bit N: operation N of [`SocketCall`].
    fn related(&self) -> u64 {
        [
            (SocketCall::LISTEN, true),
            (SocketCall::BIND, self.bind),
            (SocketCall::CREATE, self.create),
            (SocketCall::ATTEMPT, self.attempts),
        ]
        .into_iter()
        .map(|(operation, wanted)| u64::from(wanted) << operation)
        .sum()
    }
}

/// The loaded and attached programs. Dropping [`Programs::hooks`] detaches them.
pub struct Programs {
    /// Keeps the programs attached.
    pub hooks: Hooks,
    /// Samples.
    pub ring: RingBuf<aya::maps::MapData>,
    /// Counters; readable also after the programs are detached.
    pub counters: Counters,
    /// Counts of failed accepts.
    pub failures: FailureCounts,
    /// The listeners that were there before.
    pub listeners: Vec<ListenerState>,
    /// What this kernel refused and the agent does without.
    pub missing: Vec<Missing>,
}

/// A feature that this kernel does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The program's name.
    pub hook: &'static str,
    /// What is gone with it.
    pub feature: &'static str,
    /// Why.
    pub reason: String,
}

/// The attached programs.
#[derive(Debug)]
pub struct Hooks {
    object: Ebpf,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    /// Whether the survey's iterator is loaded.
    can_survey: bool,
}

impl Hooks {
    /// The state of every open listener; nothing on a kernel that refused the iterator.
    ///
    /// # Errors
    /// When the kernel refuses the pass.
    pub fn survey(&mut self) -> Result<Option<Vec<ListenerState>>, SurveyError> {
        if !self.can_survey {
            return Ok(None);
        }
        iterator(&mut self.object, LISTENERS.0).map(survey::listeners).transpose()
    }

    /// Detaches every program, and says how often the kernel did not run one because it ran on that CPU already
    /// (recursion protection): the only loss that no counter of ours can see. `None` when the kernel does not tell.
    /// A program that runs at this moment still finishes.
    ///
    /// # Errors
    /// When the kernel refuses to detach one.
    pub fn detach(mut self) -> Result<Option<u64>, ProgramError> {
        let mut missed = Some(0);
        for (hook, link) in self.links {
            if let Some(program) = self.object.program_mut(hook) {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.detach(link)?;
                let of_this_hook = recursion_misses(program.fd()?.as_fd());
                missed = missed.zip(of_this_hook).map(|(sum, misses): (u64, u64)| sum + misses);
            }
        }
        Ok(missed)
    }
}

/// `recursion_misses` of a program (`bpf_prog_show_fdinfo`, `kernel/bpf/syscall.c`).
fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

/// Loads and attaches every program, and looks at what was there before.
///
/// # Errors
/// See [`LoadError`]; nothing stays attached.
pub fn load(settings: &Settings, offsets: &[Value]) -> Result<Programs, LoadError> {
    let mut object = open(settings, offsets)?;
    let ring = object.take_map("EVENTS").ok_or(LoadError::Incomplete("map EVENTS"))?;
    let counters = object.take_map("COUNTERS").ok_or(LoadError::Incomplete("map COUNTERS"))?;
    let failures = object.take_map("FAILURES").ok_or(LoadError::Incomplete("map FAILURES"))?;
    let ring = RingBuf::try_from(ring).map_err(|_| LoadError::Incomplete("ring buffer EVENTS"))?;
    let counters =
        PerCpuArray::try_from(counters).map_err(|_| LoadError::Incomplete("per-CPU array COUNTERS"))?;
    let failures = HashMap::try_from(failures).map_err(|_| LoadError::Incomplete("hash map FAILURES"))?;
    // Before the first program: the filter holds from the first event.
    fill_filter(&mut object, &settings.filter)?;

    let mut hooks = Hooks { object, links: Vec::with_capacity(HOOKS.len()), can_survey: false };
    let mut missing = Vec::new();
    let can_remember = attach_all(&mut hooks, settings, &mut missing)?;
    let listeners = look_around(&mut hooks, can_remember, &mut missing);
    Ok(Programs {
        hooks,
        ring,
        counters: Counters::new(counters),
        failures: FailureCounts::new(failures),
        listeners,
        missing,
    })
}

/// Loads and attaches each program by itself, and says what the kernel did with it. Nothing stays attached.
///
/// # Errors
/// When there is nothing to try: the maps were refused, or the kernel's types are not there.
pub fn trials(settings: &Settings, offsets: &[Value]) -> Result<Vec<Trial>, LoadError> {
    let mut object = open(settings, offsets)?;
    let btf = Btf::from_sys_fs()?;
    let tried = |program: &str, feature: Option<&str>, error: Option<LoadError>| Trial {
        program: program.to_owned(),
        feature: feature.map(str::to_owned),
        error: error.map(|error| error.to_string()),
    };
    let mut trials = Vec::new();
    for hook in HOOKS {
        let error = attach(&mut object, hook.name, &btf).err();
        trials.push(tried(hook.name, hook.feature, error));
    }
    for ((name, target), feature) in [(LISTENERS, LISTENERS_FEATURE), (QUEUED, QUEUED_FEATURE)] {
        let error = load_iterator(&mut object, name, target, &btf).err();
        trials.push(tried(name, Some(feature), error));
    }
    Ok(trials)
}

fn open(settings: &Settings, offsets: &[Value]) -> Result<Ebpf, LoadError> {
    let own = [
        ("AGENT_TGID", u64::from(std::process::id())),
        ("RECORD_SELF", u64::from(settings.record_self)),
        ("RELATED", settings.related()),
        ("FAILURE_BUDGET", settings.failure_budget),
        ("FILTER_INCLUDES", settings.filter.includes()),
        ("FILTER_EXCLUDES", settings.filter.excludes()),
    ];
    let mut loader = EbpfLoader::new();
    // The programs have no relocations against the kernel's types: those are not read for this.
    loader.btf(None);
    for (global, value) in offsets.iter().chain(&own) {
        loader.override_global(global, value, true);
    }
    loader.map_max_entries("EVENTS", settings.ring_bytes);
    loader.load(OBJECT).map_err(|error| LoadError::Object(causes(&error)))
}

fn fill_filter(object: &mut Ebpf, filter: &Filter) -> Result<(), LoadError> {
    let map = object.map_mut("FILTER").ok_or(LoadError::Incomplete("map FILTER"))?;
    let mut map: HashMap<_, [u8; 20], u8> =
        HashMap::try_from(map).map_err(|_| LoadError::Incomplete("hash map FILTER"))?;
    for (value, how) in filter.values() {
        let mut key = [0; 20];
        key.copy_from_slice(value.as_bytes());
        map.insert(key, how, 0).map_err(|error| LoadError::Object(causes(&error)))?;
    }
    Ok(())
}

fn attach(object: &mut Ebpf, hook: &'static str, btf: &Btf) -> Result<BtfTracePointLinkId, LoadError> {
    let program: &mut BtfTracePoint = object
        .program_mut(hook)
        .ok_or(LoadError::Incomplete(hook))?
        .try_into()
        .map_err(|_| LoadError::Incomplete(hook))?;
    program.load(hook, btf).and_then(|()| program.attach()).map_err(|error| refused(hook, &error))
}

/// Attaches the hooks and loads the iterators; says whether queued connections can be remembered. The kernel's types,
/// which are large, are only in memory while this runs.
fn attach_all(hooks: &mut Hooks, settings: &Settings, missing: &mut Vec<Missing>) -> Result<bool, LoadError> {
    let btf = Btf::from_sys_fs()?;
    for hook in HOOKS.iter().filter(|hook| settings.attempts || !hook.for_attempts) {
        match (attach(&mut hooks.object, hook.name, &btf), hook.feature) {
            (Ok(link), _) => hooks.links.push((hook.name, link)),
            (Err(error), None) => return Err(error),
            (Err(error), Some(feature)) => {
                missing.push(Missing { hook: hook.name, feature, reason: error.to_string() });
            }
        }
    }
    let mut loads = |(name, target), feature| match load_iterator(&mut hooks.object, name, target, &btf) {
        Ok(()) => true,
        Err(error) => {
            missing.push(Missing { hook: name, feature, reason: error.to_string() });
            false
        }
    };
    hooks.can_survey = loads(LISTENERS, LISTENERS_FEATURE);
    Ok(loads(QUEUED, QUEUED_FEATURE))
}

/// The listeners that are there, and, remembered, the connections in their queues.
fn look_around(hooks: &mut Hooks, can_remember: bool, missing: &mut Vec<Missing>) -> Vec<ListenerState> {
    let mut lacks = |hook, feature, reason: String| missing.push(Missing { hook, feature, reason });
    let listeners = match hooks.survey() {
        Ok(listeners) => listeners.unwrap_or_default(),
        Err(error) => {
            lacks(LISTENERS.0, LISTENERS_FEATURE, error.to_string());
            Vec::new()
        }
    };
    let remember = iterator(&mut hooks.object, QUEUED.0).filter(|_| can_remember);
    match remember.map(|iterator| survey::remember_queued(iterator, &listeners)) {
        None | Some(Ok(0)) => {}
        Some(Ok(failed)) => {
            lacks(QUEUED.0, QUEUED_FEATURE, format!("{failed} network namespaces could not be entered"));
        }
        Some(Err(error)) => lacks(QUEUED.0, QUEUED_FEATURE, error.to_string()),
    }
    listeners
}

fn load_iterator(
    object: &mut Ebpf,
    name: &'static str,
    target: &'static str,
    btf: &Btf,
) -> Result<(), LoadError> {
    let program = iterator(object, name).ok_or(LoadError::Incomplete(name))?;
    program.load(target, btf).map_err(|error| refused(name, &error))
}

fn iterator<'a>(object: &'a mut Ebpf, name: &str) -> Option<&'a mut Iter> {
    object.program_mut(name)?.try_into().ok()
}

fn refused(hook: &'static str, error: &ProgramError) -> LoadError {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return LoadError::Program { hook, reason: causes(error), verifier_log: String::new() };
    };
    let verifier_log = verifier_log.to_string();
    let last_words =
        verifier_log.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed "));
    let reason = match last_words {
        Some(words) => format!("{io_error} ({words})"),
        None => io_error.to_string(),
    };
    LoadError::Program { hook, reason, verifier_log }
}
