//! Chooses the tier by trial, loads its programs with the kernel's offsets frozen into them, and attaches them.

use std::path::PathBuf;

use acceptd_common::ListenerState;
use acceptd_otlp::causes::causes;
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, RingBuf},
};
use zerocopy::IntoBytes as _;

use super::{
    anchor::Anchor,
    attach::{Link, attach, load_iterator},
    attached::{ALL_UNENDED, Hooks, Iterator, LISTENERS, QUEUED, UNENDED},
    counters::Counters,
    error::{Capture, LoadError, Missing},
    failures::FailureCounts,
    hooks::{
        Hook, Tier, {self},
    },
    lives::LivesCounts,
    offsets::Value,
    peers::Peers,
    pins,
    settings::Settings,
    survey,
};
use crate::{bpf::filter::Filter, clock};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("ACCEPTD_EBPF_OBJECT"));

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
            missing.push(Missing::pins(reason));
            (Vec::new(), None)
        }
        None => (Vec::new(), None),
    };
    let mut object = match open(settings, tier, offsets, generation, &pins) {
        Err(error) if !pins.is_empty() => {
            missing.push(Missing::pins(error.to_string()));
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
    let of_tier: &[Iterator] = match tier {
        Tier::One => &[UNENDED, ALL_UNENDED],
        Tier::Two => &[],
    };
    for Iterator { program, target, feature } in [LISTENERS, QUEUED].iter().chain(of_tier).copied() {
        match load_iterator(&mut hooks.object, program, target, btf) {
            Ok(()) => hooks.iterators.push(program),
            Err(error) => missing.push(Missing::new(program, feature, &error)),
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
    let mut lacks = |iterator: Iterator, reason: String, remedy: Option<&'static str>| {
        let Iterator { program, feature, .. } = iterator;
        let at_start = program == QUEUED.program;
        capture.missing.push(Missing { hook: program, feature, reason, remedy, at_start });
    };
    let listeners = match hooks.survey() {
        Ok(listeners) => listeners.unwrap_or_default(),
        Err(error) => {
            lacks(LISTENERS, error.to_string(), None);
            Vec::new()
        }
    };
    match hooks.loaded(QUEUED).map(|iterator| survey::remember_queued(iterator, &listeners)) {
        None => {}
        Some(Ok(0)) => {
            if let Err(error) = hooks.sweep() {
                capture.missing.push(Missing::pins(error.to_string()));
            }
        }
        Some(Ok(failed)) => {
            lacks(
                QUEUED,
                format!("{failed} network namespaces could not be entered, which needs CAP_SYS_ADMIN"),
                Some(
                    "nothing, unless you need it: then add CAP_SYS_ADMIN; who comes later is proven without it",
                ),
            );
        }
        Some(Err(error)) => lacks(QUEUED, error.to_string(), None),
    }
    listeners
}
