//! Chooses the tier by trial, loads its programs with the kernel's offsets frozen into them, and attaches them.

use std::{fs::File, os::fd::AsFd as _, path::PathBuf, time::Duration};

use acceptd_common::{ListenerState, SocketCall, trace};
use acceptd_otlp::causes::causes;
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapError, RingBuf},
    programs::Iter,
};
use zerocopy::IntoBytes as _;

use super::{
    anchor::Anchor,
    attach::{Link, attach, iterator, load_iterator},
    counters::Counters,
    failures::FailureCounts,
    figures::Figures,
    hooks::{self, Hook, Tier, Wanted},
    lives::LivesCounts,
    offsets::{OffsetError, Value},
    peers::Peers,
    pins,
    survey::{self, SurveyError},
};
use crate::{clock, filter::Filter};

/// The iterators, each with its target.
const LISTENERS: (&str, &str) = ("survey_listeners", "task_file");
const QUEUED: (&str, &str) = ("remember_queued", "tcp");
const UNENDED: (&str, &str) = ("find_unended", "task");
const ALL_UNENDED: (&str, &str) = ("find_all_unended", "task");

/// What is gone without them.
const LISTENERS_FEATURE: &str = "listeners from before the start, and the state of listeners between accepts";
const QUEUED_FEATURE: &str = "the proof of connections that were queued before the start";
const UNENDED_FEATURE: &str = "the last accept of a living thread that waited in it while somebody else attached a program to the same function";

/// No program runs for so long.
const FINISHING: Duration = Duration::from_millis(20);

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("ACCEPTD_EBPF_OBJECT"));

/// Why the programs do not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's types do not fit.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    /// The object or its maps were refused.
    #[error("the kernel refused acceptd's maps: {0}; acceptd needs Linux 5.15 or later")]
    Object(String),
    /// The kernel's own BTF could not be parsed.
    #[error("the kernel's type information cannot be parsed: {0}")]
    Btf(#[from] aya::BtfError),
    /// The kernel has no function or tracepoint of this name.
    #[error("the program {hook} has nothing to be attached to: this kernel has no {name}")]
    NoFunction {
        /// Name of the program.
        hook: &'static str,
        /// What it lacks.
        name: String,
    },
    /// A program of the BPF security module would be attached, and never run.
    #[error(
        "the program {hook} needs the BPF security module, which is not active: add bpf to lsm= of the kernel's command line"
    )]
    SecurityModule {
        /// Name of the program.
        hook: &'static str,
    },
    /// A program that this one does harm without is not there.
    #[error("the program {hook} needs {needed}, which is not attached")]
    Needs {
        /// Name of the program.
        hook: &'static str,
        /// Name of the other.
        needed: &'static str,
    },
    /// A program was refused, and what stands in for it, too.
    #[error("{0}; {1}")]
    Both(Box<LoadError>, Box<LoadError>),
    /// The configuration says not to attach it.
    #[error("the program {hook} is in capture.skip_hooks")]
    Skipped {
        /// Name of the program.
        hook: &'static str,
    },
    /// One program was refused.
    #[error("the kernel refused the program {hook}: {reason}")]
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
    /// The tier; without it the first one that this kernel allows.
    pub tier: Option<Tier>,
    /// Programs that are treated as though the kernel refused them.
    pub skip: Vec<String>,
    /// Bytes of the ring buffer; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Whether accepts of the agent's own are recorded.
    pub record_self: bool,
    /// Failure records for each listener and second.
    pub failure_budget: u64,
    /// What is captured beside accepts. Listens always are: the agent keeps a list of listeners.
    pub wanted: Wanted,
    /// What is captured at all.
    pub filter: Filter,
    /// Which connections have a trace.
    pub traces: Traces,
}

/// Which connections have a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Those whose randomness ([`acceptd_common::trace`]) is not below this.
    pub threshold: u64,
    /// Those that waited so long, in nanoseconds.
    pub slow_ns: u64,
    /// The key of the randomness.
    pub key: [u64; 2],
    /// A folder of the BPF file system, where what is known of open connections outlives the agent.
    pub pins: Option<PathBuf>,
}

impl Traces {
    /// None.
    pub const NONE: Self = Self { threshold: trace::NEVER, slow_ns: u64::MAX, key: [0; 2], pins: None };

    fn is_any(&self) -> bool {
        self.threshold < trace::NEVER || self.slow_ns < u64::MAX
    }
}

impl Settings {
    /// Bit N: operation N of [`SocketCall`].
    fn related(&self) -> u64 {
        [
            (SocketCall::LISTEN, true),
            (SocketCall::BIND, self.wanted.bind),
            (SocketCall::CREATE, self.wanted.create),
            (SocketCall::ATTEMPT, self.wanted.attempts),
        ]
        .into_iter()
        .map(|(operation, wanted)| u64::from(wanted) << operation)
        .sum()
    }

    fn skips(&self, hook: &Hook) -> bool {
        self.skip.iter().any(|name| name == hook.program)
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
    /// Counts of open connections.
    pub lives: LivesCounts,
    /// Clients of connections within the host.
    pub peers: Peers,
    /// The wall clock for the programs.
    pub anchor: Anchor,
    /// The listeners that were there before.
    pub listeners: Vec<ListenerState>,
    /// How accepts are captured.
    pub capture: Capture,
}

/// How accepts are captured on this kernel.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Capture {
    /// By which programs.
    pub tier: Tier,
    /// Why not in tier 1; absent in tier 1 and where the configuration chose.
    pub because: Option<String>,
    /// What this kernel refused and the agent does without.
    pub missing: Vec<Missing>,
}

impl LoadError {
    /// The program that was refused, if it was one.
    #[must_use]
    pub fn hook(&self) -> Option<&'static str> {
        match self {
            Self::NoFunction { hook, .. }
            | Self::SecurityModule { hook }
            | Self::Needs { hook, .. }
            | Self::Skipped { hook }
            | Self::Program { hook, .. } => Some(hook),
            Self::Both(_, second) => second.hook(),
            Self::Offsets(_) | Self::Object(_) | Self::Btf(_) | Self::Incomplete(_) => None,
        }
    }

    /// What to do, where it is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Skipped { .. } => Some("remove it from capture.skip_hooks"),
            Self::Both(first, second) => first.remedy().or_else(|| second.remedy()),
            _ => None,
        }
    }
}

/// A feature that this kernel does not allow.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// The program's name.
    pub hook: &'static str,
    /// What is gone with it.
    pub feature: &'static str,
    /// Why.
    pub reason: String,
    /// What to do, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
}

/// What is gone, why, and what to do.
impl std::fmt::Display for Missing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "without {}: {}", self.feature, self.reason)?;
        self.remedy.map_or(Ok(()), |remedy| write!(out, "; {remedy}"))
    }
}

impl Missing {
    fn new(hook: &'static str, feature: &'static str, error: &LoadError) -> Self {
        Self { hook, feature, reason: error.to_string(), remedy: error.remedy() }
    }
}

/// The attached programs.
pub struct Hooks {
    object: Ebpf,
    links: Vec<(&'static Hook, Link)>,
    /// The iterators that are loaded.
    iterators: Vec<&'static str>,
    /// When they were loaded, nanoseconds on `CLOCK_BOOTTIME`.
    generation: u64,
    /// Keeps other agents from the pinned maps.
    _pins: Option<File>,
}

impl Hooks {
    /// The state of every open listener; nothing on a kernel that refused the iterator.
    ///
    /// # Errors
    /// When the kernel refuses the pass.
    pub fn survey(&mut self) -> Result<Option<Vec<ListenerState>>, SurveyError> {
        self.loaded(LISTENERS.0).map(survey::listeners).transpose()
    }

    /// Looks for accepts whose end was not seen, and has what is known of them sent (tier 1).
    ///
    /// # Errors
    /// When the kernel refuses the pass.
    pub fn find_unended(&mut self) -> Result<(), SurveyError> {
        self.loaded(UNENDED.0).map_or(Ok(()), survey::pass)
    }

    /// Forgets connections that ended while no agent ran; those that did not were found to be there.
    fn sweep(&mut self) -> Result<(), MapError> {
        let Some(map) = self.object.map_mut("OPEN_BY_COOKIE") else { return Ok(()) };
        let gone = pins::sweep(&mut HashMap::try_from(map)?, self.generation)?;
        tracing::debug!("{gone} connections with a trace ended while no agent ran");
        Ok(())
    }

    /// An iterator, if the kernel took it.
    fn loaded(&mut self, name: &'static str) -> Option<&mut Iter> {
        self.iterators.contains(&name).then(|| iterator(&mut self.object, name)).flatten()
    }

    /// The names of the programs that are attached, or loaded for passes.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        self.links.iter().map(|(hook, _)| hook.program).chain(self.iterators.iter().copied())
    }

    /// What the kernel knows of each attached program.
    #[must_use]
    pub fn figures(&self) -> Vec<(&'static str, Figures)> {
        self.links.iter().map(|(hook, _)| (hook.program, self.figures_of(hook))).collect()
    }

    /// The attached programs that an accept of ours leads to, and how often each ran.
    #[must_use]
    pub fn singers(&self) -> Vec<(&'static str, Option<u64>)> {
        let singers = self.links.iter().filter(|(hook, _)| hook.sings);
        singers.map(|(hook, _)| (hook.program, self.figures_of(hook).runs)).collect()
    }

    fn figures_of(&self, hook: &Hook) -> Figures {
        let fd = self.object.program(hook.program).and_then(|program| program.fd().ok());
        fd.map_or_else(Figures::default, |fd| Figures::of(fd.as_fd()))
    }

    /// How often the kernel did not run an attached program ([`Figures::recursion_misses`]); `None` when it does not tell.
    #[must_use]
    pub fn missed(&self) -> Option<u64> {
        self.links.iter().map(|(hook, _)| self.figures_of(hook).recursion_misses).sum()
    }

    /// Detaches every program, the last first: what an earlier one needs of a later one it has until its own end. Says what
    /// [`Hooks::missed`] was then.
    ///
    /// # Errors
    /// When the kernel refuses the last pass over accepts that were not seen to end.
    pub fn detach(mut self) -> Result<Option<u64>, SurveyError> {
        let mut missed = Some(0);
        for (hook, link) in std::mem::take(&mut self.links).into_iter().rev() {
            drop(link);
            let of_this_hook = self.figures_of(hook).recursion_misses;
            missed = missed.zip(of_this_hook).map(|(sum, misses): (u64, u64)| sum + misses);
        }
        if let Some(iterator) = self.loaded(ALL_UNENDED.0) {
            // A program that runs at this moment still finishes.
            std::thread::sleep(FINISHING);
            survey::pass(iterator)?;
        }
        Ok(missed)
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.links.iter().map(|(hook, _)| hook.program)).finish()
    }
}

/// Loads and attaches the programs of the first tier that the kernel allows, and looks at what was there before.
///
/// # Errors
/// See [`LoadError`]; nothing stays attached.
pub fn load(settings: &Settings, offsets: &[Value]) -> Result<Programs, LoadError> {
    let mut loaded = attach_first(settings, offsets)?;
    let object = &mut loaded.hooks.object;
    let ring = take(object, "EVENTS")?;
    let counters = take(object, "COUNTERS")?;
    let failures = take(object, "FAILURES")?;
    let lives = take(object, "LIVES")?;
    let connecting = take(object, "CONNECTING")?;
    let connected = take(object, "PEERS")?;
    let anchor = take(object, "ANCHOR")?;
    for (program, figures) in loaded.hooks.figures() {
        tracing::debug!("{program} is attached: {figures}");
    }
    let listeners = look_around(&mut loaded);
    Ok(Programs {
        hooks: loaded.hooks,
        ring,
        counters: Counters::new(counters),
        failures: FailureCounts::new(failures),
        lives: LivesCounts::new(lives),
        peers: Peers::new(connecting, connected),
        anchor: Anchor::new(anchor),
        listeners,
        capture: loaded.capture,
    })
}

/// A map of the object, as what it is used as.
fn take<M: TryFrom<Map>>(object: &mut Ebpf, name: &'static str) -> Result<M, LoadError> {
    object.take_map(name).and_then(|map| M::try_from(map).ok()).ok_or(LoadError::Incomplete(name))
}

/// What is attached, before its maps were taken out.
struct Loaded {
    hooks: Hooks,
    capture: Capture,
}

/// The kernel's types, which are large, are only in memory while this runs.
fn attach_first(settings: &Settings, offsets: &[Value]) -> Result<Loaded, LoadError> {
    let btf = Btf::from_sys_fs()?;
    if let Some(tier) = settings.tier {
        return attach_all(settings, tier, offsets, &btf);
    }
    match attach_all(settings, Tier::One, offsets, &btf) {
        // The maps are the same in every tier.
        Err(error @ (LoadError::Object(_) | LoadError::Incomplete(_))) => Err(error),
        Err(because) => {
            let mut loaded = match attach_all(settings, Tier::Two, offsets, &btf) {
                Ok(loaded) => loaded,
                Err(error) => return Err(LoadError::Both(Box::new(because), Box::new(error))),
            };
            loaded.capture.because = Some(because.to_string());
            Ok(loaded)
        }
        Ok(loaded) => Ok(loaded),
    }
}

fn attach_all(settings: &Settings, tier: Tier, offsets: &[Value], btf: &Btf) -> Result<Loaded, LoadError> {
    let mut missing: Vec<Missing> = Vec::new();
    let generation = clock::now_boot_nanos();
    let (pins, lock) = match settings.traces.pins.as_deref().map(pins::prepare) {
        Some(Ok((pins, lock))) => (pins, Some(lock)),
        Some(Err(reason)) => {
            missing.push(without_pins(reason));
            (Vec::new(), None)
        }
        None => (Vec::new(), None),
    };
    let mut object = match open(settings, tier, offsets, generation, &pins) {
        Err(error) if !pins.is_empty() => {
            missing.push(without_pins(error.to_string()));
            open(settings, tier, offsets, generation, &[])?
        }
        opened => opened?,
    };
    set_anchor(&mut object)?;
    // Before the first program: the filter holds from the first event.
    fill_filter(&mut object, &settings.filter)?;
    let mut hooks = Hooks { object, links: Vec::new(), iterators: Vec::new(), generation, _pins: lock };
    for hook in hooks::of(tier, settings.wanted) {
        let lacks = missing.iter().find(|missing| hook.needs == Some(missing.hook));
        let attached = match lacks {
            Some(lacks) => Err(LoadError::Needs { hook: hook.program, needed: lacks.hook }),
            None => attach_or_instead(&mut hooks.object, hook, settings, btf),
        };
        match (attached, hook.feature) {
            (Ok((hook, link)), _) => hooks.links.push((hook, link)),
            (Err(LoadError::NoFunction { .. }), Some(_)) if hook.only_if_there => {}
            (Err(error), None) => return Err(error),
            (Err(error), Some(feature)) => {
                missing.push(Missing::new(hook.program, feature, &error));
            }
        }
    }
    let of_tier: &[_] = match tier {
        Tier::One => &[(UNENDED, UNENDED_FEATURE), (ALL_UNENDED, UNENDED_FEATURE)],
        Tier::Two => &[],
    };
    let of_both = [(LISTENERS, LISTENERS_FEATURE), (QUEUED, QUEUED_FEATURE)];
    for ((name, target), feature) in of_both.iter().chain(of_tier).copied() {
        match load_iterator(&mut hooks.object, name, target, btf) {
            Ok(()) => hooks.iterators.push(name),
            Err(error) => missing.push(Missing::new(name, feature, &error)),
        }
    }
    let lost = |missing: &&Missing| missing.hook == hooks::UNIX_RELEASE;
    if let Some(lost) = missing.iter().find(lost)
        && !settings.skip.iter().any(|skipped| skipped == hooks::UNIX_RELEASE)
    {
        // The programs were told that UNIX sockets are seen to end. Without that they begin nothing for them.
        let (lost, mut without) = (lost.clone(), settings.clone());
        without.skip.push(hooks::UNIX_RELEASE.to_owned());
        drop(hooks);
        let mut loaded = attach_all(&without, tier, offsets, btf)?;
        if let Some(skipped) = loaded.capture.missing.iter_mut().find(|missing| missing.hook == lost.hook) {
            *skipped = lost;
        }
        return Ok(loaded);
    }
    Ok(Loaded { hooks, capture: Capture { tier, because: None, missing } })
}

/// The hook, or what stands in for it.
fn attach_or_instead(
    object: &mut Ebpf,
    hook: &'static Hook,
    settings: &Settings,
    btf: &Btf,
) -> Result<(&'static Hook, Link), LoadError> {
    let mut attach = |hook: &'static Hook| {
        if settings.skips(hook) {
            return Err(LoadError::Skipped { hook: hook.program });
        }
        attach(object, hook, btf).map(|link| (hook, link))
    };
    let first = match attach(hook) {
        Ok(attached) => return Ok(attached),
        Err(error) => error,
    };
    match hooks::fallback(hook.program) {
        None => Err(first),
        Some(fallback) => {
            attach(fallback).map_err(|second| LoadError::Both(Box::new(first), Box::new(second)))
        }
    }
}

fn without_pins(reason: String) -> Missing {
    Missing { hook: pins::NAME, feature: pins::FEATURE, reason, remedy: Some(pins::REMEDY) }
}

fn set_anchor(object: &mut Ebpf) -> Result<(), LoadError> {
    let map = object.map_mut("ANCHOR").ok_or(LoadError::Incomplete("map ANCHOR"))?;
    let mut anchor: Array<_, u64> =
        Array::try_from(map).map_err(|_| LoadError::Incomplete("array ANCHOR"))?;
    let now = clock::Clock::new().boot_time_unix_nanos();
    anchor.set(0, now, 0).map_err(|error| LoadError::Object(causes(&error)))
}

fn open(
    settings: &Settings,
    tier: Tier,
    offsets: &[Value],
    generation: u64,
    pins: &[(&'static str, PathBuf)],
) -> Result<Ebpf, LoadError> {
    let traces = &settings.traces;
    let own = [
        ("TIER", u64::from(tier.number())),
        ("AGENT_TGID", u64::from(std::process::id())),
        ("RECORD_SELF", u64::from(settings.record_self)),
        ("RELATED", settings.related()),
        ("FAILURE_BUDGET", settings.failure_budget),
        ("FILTER_INCLUDES", settings.filter.includes()),
        ("FILTER_EXCLUDES", settings.filter.excludes()),
        ("TRACES", u64::from(traces.is_any())),
        ("UNIX_ENDS", u64::from(!settings.skip.iter().any(|skipped| skipped == hooks::UNIX_RELEASE))),
        ("COUNTS_LIVES", u64::from(settings.wanted.lives)),
        ("TRACE_THRESHOLD", traces.threshold),
        ("TRACE_SLOW_NS", traces.slow_ns),
        ("TRACE_KEY_0", traces.key[0]),
        ("TRACE_KEY_1", traces.key[1]),
        ("GENERATION", generation),
    ];
    let mut loader = EbpfLoader::new();
    // The programs have no relocations against the kernel's types: those are not read for this.
    loader.btf(None);
    // aya knows no use of task storage in user space; we have none.
    loader.allow_unsupported_maps();
    for (global, value) in offsets.iter().chain(&own) {
        loader.override_global(global, value, true);
    }
    loader.map_max_entries("EVENTS", settings.ring_bytes);
    for (map, pin) in pins {
        loader.map_pin_path(map, pin);
    }
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

/// The listeners that are there, and, remembered, the connections in their queues.
fn look_around(loaded: &mut Loaded) -> Vec<ListenerState> {
    let Loaded { hooks, capture } = loaded;
    let mut lacks = |hook, feature, reason: String| {
        capture.missing.push(Missing { hook, feature, reason, remedy: None });
    };
    let listeners = match hooks.survey() {
        Ok(listeners) => listeners.unwrap_or_default(),
        Err(error) => {
            lacks(LISTENERS.0, LISTENERS_FEATURE, error.to_string());
            Vec::new()
        }
    };
    match hooks.loaded(QUEUED.0).map(|iterator| survey::remember_queued(iterator, &listeners)) {
        None => {}
        Some(Ok(0)) => {
            if let Err(error) = hooks.sweep() {
                lacks(pins::NAME, pins::FEATURE, error.to_string());
            }
        }
        Some(Ok(failed)) => {
            lacks(
                QUEUED.0,
                QUEUED_FEATURE,
                format!("{failed} network namespaces could not be entered, which needs CAP_SYS_ADMIN"),
            );
        }
        Some(Err(error)) => lacks(QUEUED.0, QUEUED_FEATURE, error.to_string()),
    }
    listeners
}
