//! What comes before the first event: the state directory, and the programs.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, anyhow};

use crate::{
    bpf::{Programs, Settings, Traces, Wanted, filter::Filter, offsets},
    cmd::run::lifetime::{Lifetime, LifetimeError},
    config::{Config, Loaded},
    pipeline::destination,
    preflight::{
        Facts, Item, Verdict, canary, gather, heard, {self},
    },
};

/// The agent's time in `state.directory`, and how long nobody captured before it, if the agent before was not stopped. Who
/// delivers nothing, or has filters, may run beside another one.
pub(super) fn lifetime(
    loaded: &Loaded,
    filter: &Filter,
    boot_id: &str,
) -> anyhow::Result<(Option<Lifetime>, Option<Duration>)> {
    if destination::of_records(loaded).is_empty() || !filter.is_everything() {
        return Ok((None, None));
    }
    match Lifetime::begin(&loaded.config.state.directory, boot_id) {
        Ok((lifetime, blind)) => {
            if let Some(blind) = blind {
                tracing::warn!("the agent before this one was not stopped: for {blind:.1?} nobody captured");
            }
            Ok((Some(lifetime), blind))
        }
        Err(taken @ LifetimeError::Taken { .. }) => Err(taken.into()),
        Err(unusable @ LifetimeError::Unusable { .. }) => {
            tracing::warn!("{unusable}");
            Ok((None, None))
        }
    }
}

/// Loads the programs, and says what is wrong with this host: the short form of `acceptd check`.
pub(super) fn load_checked(config: &Config, filter: &Filter, traces: Traces) -> anyhow::Result<Programs> {
    let mut facts = gather::host(config, Path::new(offsets::VMLINUX));
    let explained = |facts: &Facts, error: anyhow::Error| {
        let items = preflight::items(facts);
        if let Some(failed) = items.iter().find(|item| item.verdict == Verdict::Failed) {
            let Item { looked_at, because, remedy, .. } = failed;
            tracing::debug!("{error:#}");
            return anyhow!("{looked_at}: {because}; {remedy}");
        }
        let error = error.context("`acceptd check` says what this host lacks");
        // An old kernel may have what is needed; this one has not.
        match items.iter().find(|item| item.id == "kernel" && item.verdict != Verdict::Ok) {
            Some(Item { looked_at, because, .. }) => error.context(format!("{looked_at}: {because}")),
            None => error,
        }
    };
    let settings = settings(config, filter, traces)?;
    let programs = heard::load(&mut facts, &settings, |programs| canary::is_counted(programs))
        .map_err(|error| explained(&facts, error.into()))?;
    for missing in &programs.capture.missing {
        tracing::warn!("{missing}");
    }
    // What was loaded needs no verdict any more.
    for Item { looked_at, because, remedy, verdict, .. } in preflight::items(&facts) {
        if matches!(verdict, Verdict::Failed | Verdict::Degraded) {
            tracing::warn!("{looked_at}: {because}; {remedy}");
        }
    }
    Ok(programs)
}

fn settings(config: &Config, filter: &Filter, traces: Traces) -> anyhow::Result<Settings> {
    let ring_bytes =
        u32::try_from(config.capture.ring_bytes).context("capture.ring_bytes is larger than 4 GiB")?;
    Ok(Settings {
        tier: gather::chosen_tier(config),
        skip: config.capture.skip_hooks.clone(),
        ring_bytes,
        record_self: config.filter.own,
        failure_budget: config.capture.failure_budget as u64,
        wanted: Wanted {
            bind: config.events.bind,
            create: config.events.create,
            attempts: config.events.accept_attempt,
            traces: traces != Traces::NONE,
            lives: config.metrics.connections,
        },
        filter: filter.clone(),
        traces,
    })
}
