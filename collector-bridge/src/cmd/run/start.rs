//! The start before the first event: facts about the host, the state directory, and the loaded programs.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    lifetime::{Lifetime, LifetimeError},
    settings,
};
use crate::{
    bpf::{Programs, TraceSettings, filter::EventFilter, offsets},
    config::{Config, Loaded, destination::record_destinations},
    identity::host::{self, HostFacts},
    mapping::ids::Ids,
    preflight::{self, Facts, Item, Verdict, gather, verify::load_and_probe_counters},
};

/// A host whose accepts are being captured.
pub(super) struct Capture {
    /// Facts about the host.
    pub(super) host: HostFacts,
    /// Makes the ids of records and traces.
    pub(super) ids: Ids,
    /// The attached programs.
    pub(super) programs: Programs,
    /// The claim on the state directory; `None` if this agent needs none, or if the directory is not
    /// writable.
    pub(super) lifetime: Option<Lifetime>,
    /// How long no agent captured before this one; `None` if the previous agent was stopped, or if there was
    /// none.
    pub(super) unobserved: Option<Duration>,
}

/// Gathers facts about the host, claims the state directory, and loads and attaches the programs.
pub(super) fn capture(loaded: &Loaded, filter: &EventFilter) -> anyhow::Result<Capture> {
    let config = &loaded.config;
    let host = host_facts(config);
    let (lifetime, unobserved) = claim_state_directory(loaded, filter, &host.boot_id)?;
    let ids = Ids::new(host.host.id.as_deref().unwrap_or_default(), &host.boot_id);
    let traces = settings::trace_settings(loaded, &ids, lifetime.is_some());
    let started = Instant::now();
    let programs = load_programs(config, filter, traces)?;
    // The programs capture only from now on.
    let unobserved = unobserved.map(|unobserved| unobserved + started.elapsed());
    Ok(Capture { host, ids, programs, lifetime, unobserved })
}

fn host_facts(config: &Config) -> HostFacts {
    let (facts, warnings) = host::gather(
        &config.host.root,
        config.host.id.as_deref(),
        config.host.name.as_deref(),
        &config.state.directory,
    );
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    facts
}

/// Claims the state directory, so that no second agent sends the same accepts. An agent that sends no
/// records, or only those that pass a filter, claims nothing and may run beside another one. Also returns how
/// long no agent captured, if the previous agent crashed.
fn claim_state_directory(
    loaded: &Loaded,
    filter: &EventFilter,
    boot_id: &str,
) -> anyhow::Result<(Option<Lifetime>, Option<Duration>)> {
    if record_destinations(loaded).is_empty() || !filter.has_no_includes() {
        return Ok((None, None));
    }
    match Lifetime::claim(&loaded.config.state.directory, boot_id) {
        Ok((lifetime, unobserved)) => {
            if let Some(unobserved) = unobserved {
                tracing::warn!(
                    "the previous agent crashed or was killed: for {unobserved:.1?} no agent captured accepts"
                );
            }
            Ok((Some(lifetime), unobserved))
        }
        Err(taken @ LifetimeError::Taken { .. }) => Err(taken.into()),
        Err(unusable @ LifetimeError::Unusable { .. }) => {
            tracing::warn!("{unusable}");
            Ok((None, None))
        }
    }
}

/// Loads and attaches the programs, and verifies that they run. Logs each defect of this host with its
/// remedy, as `acceptd check` prints it.
fn load_programs(config: &Config, filter: &EventFilter, traces: TraceSettings) -> anyhow::Result<Programs> {
    let mut facts = gather::host(config, Path::new(offsets::VMLINUX));
    let settings = settings::load_settings(config, filter, traces)?;
    let programs =
        load_and_probe_counters(&mut facts, &settings).map_err(|error| with_verdict(error.into(), &facts))?;
    for missing in &programs.capture.missing {
        tracing::warn!("{missing}");
    }
    // `facts` has no trials of programs here: the missing features are logged above.
    for Item { subject, because, remedy, verdict, .. } in preflight::judge(&facts) {
        if matches!(verdict, Verdict::Failed | Verdict::Degraded) {
            tracing::warn!("{subject}: {because}; {remedy}");
        }
    }
    Ok(programs)
}

/// Replaces the error of the loader by the verdict that explains it, if there is one.
fn with_verdict(error: anyhow::Error, facts: &Facts) -> anyhow::Error {
    let items = preflight::judge(facts);
    if let Some(Item { subject, because, remedy, .. }) =
        items.iter().find(|item| item.verdict == Verdict::Failed)
    {
        tracing::debug!("{error:#}");
        return anyhow!("{subject}: {because}; {remedy}");
    }
    let error = error.context("run `acceptd check` for the cause and the remedy");
    // An old kernel is worth naming only now: it could have had the required features.
    match items.iter().find(|item| item.id == "kernel" && item.verdict != Verdict::Ok) {
        Some(Item { subject, because, .. }) => error.context(format!("{subject}: {because}")),
        None => error,
    }
}
