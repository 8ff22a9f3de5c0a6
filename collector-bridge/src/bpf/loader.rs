//! Chooses the tier by trying to load it, writes the kernel's offsets into the programs as constants, loads
//! them and attaches them.

use std::{path::PathBuf, sync::Arc};

use acceptd_common::{ListenerState, PeerPrefix};
use acceptd_otlp::error_chain;
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, Map, RingBuf,
        lpm_trie::{Key, LpmTrie},
    },
};
use zerocopy::IntoBytes as _;

use super::{
    anchor::ClockAnchor,
    attach::{Link, attach, load_iterator},
    attached::{
        AttachedPrograms, SURVEY_LISTENERS, SURVEY_QUEUED, SWEEP_ALL_IN_FLIGHT, SWEEP_IN_FLIGHT,
        SurveyProgram,
    },
    connections::ConnectionCounts,
    counters::Counters,
    error::{CaptureMode, LoadError, MissingFeature},
    failures::FailureCounts,
    hooks::{self, Hook, Tier},
    modules::ModuleHooks,
    offsets::GlobalValue,
    peers::PeerMaps,
    pins, preemption,
    refused::RefusedCounts,
    settings::LoadSettings,
    survey::{self, KeptListeners},
};
use crate::{
    bpf::filter::{EventFilter, LiveFilter},
    clock,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("ACCEPTD_EBPF_OBJECT"));

/// The loaded and attached programs, and their maps. Dropping [`Programs::attached`] detaches the programs.
pub struct Programs {
    /// Keeps the programs attached.
    pub attached: AttachedPrograms,
    /// The ring buffer with the samples.
    pub ring: RingBuf<aya::maps::MapData>,
    /// The programs' counters. They stay readable after the programs are detached.
    pub counters: Counters,
    /// Counts of failed accepts, by listener, process and errno.
    pub failures: FailureCounts,
    /// Counts of open connections, by listener.
    pub connections: ConnectionCounts,
    /// Counts of connection attempts that full queues refused.
    pub refused: RefusedCounts,
    /// Client processes of connections within the host.
    pub peers: PeerMaps,
    /// Gives the programs the wall clock.
    pub anchor: ClockAnchor,
    /// The filter, whose cgroups may come and go.
    pub filter: LiveFilter,
    /// The listeners that existed before the programs were attached.
    pub listeners: Vec<ListenerState>,
    /// How accepts are captured.
    pub capture: CaptureMode,
}

/// Loads and attaches the programs of the first tier that the kernel allows, then surveys the listeners and
/// queued connections that already exist.
///
/// # Errors
/// See [`LoadError`]. No program stays attached then.
pub fn load(settings: &LoadSettings, offsets: &[GlobalValue]) -> Result<Programs, LoadError> {
    let mut loaded = attach_first(settings, offsets)?;
    let object = &mut loaded.attached.object;
    let ring = take(object, "EVENTS")?;
    let counters = take(object, "COUNTERS")?;
    let failures = take(object, "FAILURES")?;
    let connections = take(object, "CONNECTION_STATS")?;
    let refused = RefusedCounts::new(take(object, "REFUSED")?, take(object, "UNIX_REFUSED")?);
    let clients = take(object, "CLIENTS")?;
    let client_cookies = take(object, "CLIENT_COOKIES")?;
    let anchor = take(object, "ANCHOR")?;
    let mut filter = LiveFilter::new(take(object, "FILTER")?, &settings.filter);
    filter.refresh().map_err(|error| LoadError::Object(error_chain(&error)))?;
    for (program, stats) in loaded.attached.stats() {
        tracing::debug!("{program} is attached: {stats}");
    }
    let listeners = survey_existing(&mut loaded);
    Ok(Programs {
        attached: loaded.attached,
        ring,
        counters: Counters::new(counters),
        failures: FailureCounts::new(failures),
        connections: ConnectionCounts::new(connections),
        refused,
        peers: PeerMaps::new(clients, client_cookies),
        anchor: ClockAnchor::new(anchor),
        filter,
        listeners,
        capture: loaded.capture,
    })
}

/// Takes a map out of the object, converted to the type `M`.
fn take<M: TryFrom<Map>>(object: &mut Ebpf, name: &'static str) -> Result<M, LoadError> {
    object.take_map(name).and_then(|map| M::try_from(map).ok()).ok_or(LoadError::Incomplete(name))
}

/// The attached programs while the object still owns all maps.
struct LoadedPrograms {
    attached: AttachedPrograms,
    capture: CaptureMode,
}

/// Attaches the configured tier, or else the first tier that works. The kernel's BTF, which takes tens of
/// megabytes, is freed on return.
fn attach_first(settings: &LoadSettings, offsets: &[GlobalValue]) -> Result<LoadedPrograms, LoadError> {
    let btf = Btf::from_sys_fs()?;
    if let Some(tier) = settings.tier {
        return attach_all(settings, tier, offsets, &btf);
    }
    match attach_all(settings, Tier::One, offsets, &btf) {
        // Tier 2 has the same maps and would fail in the same way.
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

fn attach_all(
    settings: &LoadSettings,
    tier: Tier,
    offsets: &[GlobalValue],
    btf: &Btf,
) -> Result<LoadedPrograms, LoadError> {
    let mut missing: Vec<MissingFeature> = Vec::new();
    let capture_epoch = clock::now_boot_nanos();
    let (pins, lock) = match settings.traces.pins.as_deref().map(pins::prepare) {
        Some(Ok((pins, lock))) => (pins, Some(lock)),
        Some(Err(reason)) => {
            missing.push(MissingFeature::pins(reason));
            (Vec::new(), None)
        }
        None => (Vec::new(), None),
    };
    let may_skip = preemption::model().may_skip_programs();
    let counts_skipped_perf_runs = preemption::counts_skipped_perf_runs();
    let constants = constants(settings, tier, capture_epoch, may_skip);
    let mut object = match open(settings, offsets, &constants, &pins) {
        Err(error) if !pins.is_empty() => {
            missing.push(MissingFeature::pins(error.to_string()));
            open(settings, offsets, &constants, &[])?
        }
        opened => opened?,
    };
    set_anchor(&mut object)?;
    // Fill the filter before attaching the first program, so that it applies from the first event on.
    fill_filter(&mut object, &settings.filter)?;
    fill_peers(&mut object, &settings.filter)?;
    let mut attached = AttachedPrograms {
        tier,
        object,
        links: Vec::new(),
        unix_paths: Arc::default(),
        modules: ModuleHooks::new(settings),
        missing: Vec::new(),
        iterators: Vec::new(),
        capture_epoch,
        _pins: lock,
    };
    for hook in hooks::for_tier(tier, settings.optional, may_skip) {
        // A program through perf replaces another one only if the kernel counts when it skips it, too.
        let is_replaced = attached.links.iter().any(|(other, _)| other.replaces == Some(hook.program));
        if is_replaced || hook.replaces.is_some() && !counts_skipped_perf_runs {
            continue;
        }
        let absent = missing.iter().find(|missing| hook.requires == Some(missing.hook));
        let result = match absent {
            Some(absent) => Err(LoadError::Requires { hook: hook.program, required: absent.hook }),
            None => attach_or_fallback(&mut attached.object, hook, settings, btf),
        };
        match (result, hook.feature) {
            (Ok((hook, link)), _) => attached.links.push((hook, link)),
            (Err(LoadError::NoFunction { .. }), Some(_)) if hook.function_is_optional => {}
            (Err(error), None) => return Err(error),
            (Err(error), Some(feature)) => {
                missing.push(MissingFeature::new(hook.program, feature, &error));
            }
        }
    }
    missing.extend(attached.attach_to_modules());
    let absent: Vec<&'static str> = missing.iter().map(|missing| missing.hook).collect();
    missing.retain(|missing| {
        let original = hooks::original_of(tier, missing.hook);
        original == missing.hook || !absent.contains(&original)
    });
    let of_this_tier: &[SurveyProgram] = match tier {
        Tier::One => &[SWEEP_IN_FLIGHT, SWEEP_ALL_IN_FLIGHT],
        Tier::Two => &[],
    };
    for SurveyProgram { program, target, feature } in
        [SURVEY_LISTENERS, SURVEY_QUEUED].iter().chain(of_this_tier).copied()
    {
        match load_iterator(&mut attached.object, program, target, btf) {
            Ok(()) => attached.iterators.push(program),
            Err(error) => missing.push(MissingFeature::new(program, feature, &error)),
        }
    }
    let lost = |missing: &&MissingFeature| missing.hook == hooks::UNIX_RELEASE;
    if let Some(lost) = missing.iter().find(lost)
        && !settings.skip.iter().any(|skipped| skipped == hooks::UNIX_RELEASE)
    {
        // The loaded programs assume that `unix_release` is attached, and would keep state of UNIX
        // connections that no program removes. Load them again with that assumption switched off.
        let (lost, mut without) = (lost.clone(), settings.clone());
        without.skip.push(hooks::UNIX_RELEASE.to_owned());
        drop(attached);
        let mut loaded = attach_all(&without, tier, offsets, btf)?;
        if let Some(skipped) = loaded.capture.missing.iter_mut().find(|missing| missing.hook == lost.hook) {
            *skipped = lost;
        }
        return Ok(loaded);
    }
    Ok(LoadedPrograms { attached, capture: CaptureMode { tier, because: None, missing } })
}

/// Attaches the hook, or else its fallback hook. Returns which of the two is attached.
fn attach_or_fallback(
    object: &mut Ebpf,
    hook: Hook,
    settings: &LoadSettings,
    btf: &Btf,
) -> Result<(Hook, Link), LoadError> {
    let mut attach = |hook: Hook| {
        if settings.skips(&hook) {
            return Err(LoadError::Skipped { hook: hook.program });
        }
        attach(object, &hook, btf).map(|link| (hook, link))
    };
    let first = match attach(hook) {
        Ok(attached) => return Ok(attached),
        Err(error) => error,
    };
    match hooks::fallback_of(hook.program) {
        None => Err(first),
        Some(fallback) => {
            attach(*fallback).map_err(|second| LoadError::Both(Box::new(first), Box::new(second)))
        }
    }
}

fn set_anchor(object: &mut Ebpf) -> Result<(), LoadError> {
    let map = object.map_mut("ANCHOR").ok_or(LoadError::Incomplete("map ANCHOR"))?;
    let mut anchor: Array<_, u64> =
        Array::try_from(map).map_err(|_| LoadError::Incomplete("array ANCHOR"))?;
    let now = clock::Clock::new().boot_time_unix_nanos();
    anchor.set(0, &now, 0).map_err(|error| LoadError::Object(error_chain(&error)))
}

/// The agent's settings that become constants in the programs.
fn constants(settings: &LoadSettings, tier: Tier, capture_epoch: u64, may_skip: bool) -> Vec<GlobalValue> {
    let traces = &settings.traces;
    vec![
        ("TIER", u64::from(tier.number())),
        ("AGENT_TGID", u64::from(std::process::id())),
        ("RECORD_SELF", u64::from(settings.record_self)),
        ("RELATED", settings.operation_mask()),
        ("FAILURE_BUDGET", settings.failure_budget),
        ("READ_SERVICE_NAMES", u64::from(settings.service_names)),
        ("FILTER_INCLUDES", settings.filter.includes()),
        ("FILTER_EXCLUDES", settings.filter.excludes()),
        ("FILTER_CGROUP_LEVELS", settings.filter.cgroup_levels()),
        ("TRACES_ENABLED", u64::from(traces.is_enabled())),
        ("UNIX_RELEASE_SEEN", u64::from(!settings.skip.iter().any(|skipped| skipped == hooks::UNIX_RELEASE))),
        ("COUNT_CONNECTIONS", u64::from(settings.optional.connections)),
        ("TRACE_THRESHOLD", traces.threshold),
        ("TRACE_SLOW_NS", traces.slow_ns),
        ("TRACE_KEY_0", traces.key[0]),
        ("TRACE_KEY_1", traces.key[1]),
        ("CAPTURE_EPOCH", capture_epoch),
        ("HAS_COPIES", u64::from(may_skip)),
    ]
}

fn open(
    settings: &LoadSettings,
    offsets: &[GlobalValue],
    constants: &[GlobalValue],
    pins: &[(&'static str, PathBuf)],
) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // aya has no user-space type for task storage; the agent never opens those maps.
    loader.allow_unsupported_maps();
    for (global, value) in offsets.iter().chain(constants) {
        loader.override_global(global, value, true);
    }
    loader.map_max_entries("EVENTS", settings.ring_bytes);
    for (map, pin) in pins {
        loader.map_pin_path(map, pin);
    }
    loader.load(OBJECT).map_err(|error| LoadError::Object(error_chain(&error)))
}

fn fill_filter(object: &mut Ebpf, filter: &EventFilter) -> Result<(), LoadError> {
    let map = object.map_mut("FILTER").ok_or(LoadError::Incomplete("map FILTER"))?;
    let mut map: HashMap<_, [u8; 20], u8> =
        HashMap::try_from(map).map_err(|_| LoadError::Incomplete("hash map FILTER"))?;
    for (value, how) in filter.values().map(|(value, how)| (*value, how)).chain(filter.cgroups()) {
        let mut key = [0; 20];
        key.copy_from_slice(value.as_bytes());
        map.insert(&key, &how, 0).map_err(|error| LoadError::Object(error_chain(&error)))?;
    }
    Ok(())
}

fn fill_peers(object: &mut Ebpf, filter: &EventFilter) -> Result<(), LoadError> {
    let map = object.map_mut("FILTER_PEERS").ok_or(LoadError::Incomplete("map FILTER_PEERS"))?;
    let mut map: LpmTrie<_, [u32; 5], u8> =
        LpmTrie::try_from(map).map_err(|_| LoadError::Incomplete("LPM trie FILTER_PEERS"))?;
    for (PeerPrefix { length, data }, how) in filter.peers() {
        map.insert(&Key::new(length, data), &how, 0)
            .map_err(|error| LoadError::Object(error_chain(&error)))?;
    }
    Ok(())
}

/// Surveys what existed before the programs were attached: returns the listeners, and makes the kernel
/// remember the connections in their accept queues. Features that do not work are added to the missing ones.
fn survey_existing(loaded: &mut LoadedPrograms) -> Vec<ListenerState> {
    let LoadedPrograms { attached, capture } = loaded;
    let mut report_missing = |survey: SurveyProgram, reason: String, remedy: Option<&'static str>| {
        let SurveyProgram { program, feature, .. } = survey;
        let at_start = program == SURVEY_QUEUED.program;
        capture.missing.push(MissingFeature { hook: program, feature, reason, remedy, at_start });
    };
    let listeners = match attached.survey(&KeptListeners::default()) {
        Ok(survey) => survey.unwrap_or_default().rows,
        Err(error) => {
            report_missing(SURVEY_LISTENERS, error.to_string(), None);
            Vec::new()
        }
    };
    match attached.iterator(SURVEY_QUEUED).map(|iterator| survey::queued_connections(iterator, &listeners)) {
        None => {}
        Some(Ok(0)) => {
            if let Err(error) = attached.sweep_ended_connections() {
                capture.missing.push(MissingFeature::pins(error.to_string()));
            }
        }
        Some(Ok(failed)) => {
            report_missing(
                SURVEY_QUEUED,
                format!("acceptd could not enter {failed} network namespaces, which needs CAP_SYS_ADMIN"),
                Some(
                    "none needed, unless you need this feature: then add CAP_SYS_ADMIN; later connections are verified without it",
                ),
            );
        }
        Some(Err(error)) => report_missing(SURVEY_QUEUED, error.to_string(), None),
    }
    capture.missing.extend(attached.take_missing());
    listeners
}
