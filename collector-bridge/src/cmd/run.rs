//! `acceptd run` and `acceptd watch`: the agent.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use acceptd_otlp::{BatchBuilder, BatchLimits, Exporter, Profile, Signal, probe};
use anyhow::{Context as _, anyhow};

use super::{failed, unusable};
use crate::{
    bpf::{Capture, Programs, Settings, Wanted, offsets},
    clock,
    config::{Config, ConfigError, Loaded},
    destination::{self, Destination},
    drain::{Drain, Drained, Shared},
    filter::Filter,
    host::{self, HostFacts},
    identity::{Identities, process::Observer},
    ids::Ids,
    ledger::CaptureLedger,
    listeners::Listeners,
    logging, memory,
    output::{Console, Outputs},
    preflight::{self, Facts, Item, Verdict, canary, gather, heard},
    recorder::{Parts, Recorder},
    stop::Stop,
    summary::Summary,
};

/// Somebody who looks at a terminal does not want to wait for a batch to fill.
const CONSOLE_BATCH_TIMEOUT: Duration = Duration::from_millis(100);

/// Runs the agent with this configuration until SIGINT or SIGTERM. In the end it prints its counts, `for_programs` also as
/// one line of JSON.
pub fn run(loaded: Result<Loaded, ConfigError>, for_programs: bool) -> ExitCode {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return unusable(error.problems()),
    };
    logging::to_stderr(&loaded.config);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let profile = match profile(&loaded.config) {
        Ok(profile) => profile,
        Err(error) => return unusable([error]),
    };
    let config = &loaded.config;
    let root = &config.host.root;
    let cgroups = gather::cgroup2(root).unwrap_or_else(|| root.join("sys/fs/cgroup"));
    let filter = match Filter::new(&config.filter, &config.filter_exclude, &cgroups) {
        Ok(filter) => filter,
        Err(error) => return unusable([error]),
    };
    match agent(&loaded, profile, filter) {
        Ok(summary) => report(&summary, for_programs),
        Err(error) => failed(&error),
    }
}

fn agent(loaded: &Loaded, profile: Profile, filter: Filter) -> anyhow::Result<Summary> {
    let config = &loaded.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (facts, warnings) = host::gather(
        &config.host.root,
        config.host.id.as_deref(),
        config.host.name.as_deref(),
        &config.state.directory,
    );
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let programs = load_checked(config, &filter)?;
    let capture = programs.capture.clone();
    memory::give_back();
    runtime.block_on(async {
        let mut stop = Stop::listen().context("cannot catch signals")?;
        let destination = destination::of(config, Signal::Logs).map_err(anyhow::Error::msg)?;
        let exporter = exporter(config, destination.as_ref())?;
        let shared = Arc::new(Shared::default());
        let listeners =
            Listeners::new(&programs.listeners, config.listener.stalled_after, clock::now_boot_nanos());
        let (builder, timeout) = batches(config);
        let recorder = Recorder::new(Parts {
            identities: identities(loaded, &facts),
            ids: Ids::new(facts.host.id.as_deref().unwrap_or_default(), &facts.boot_id),
            profile,
            events: config.events.clone(),
            filter,
            builder,
            timeout,
            outputs: outputs(config, exporter.clone()),
            listeners,
        });
        let drain = Drain::new(programs, recorder, Arc::clone(&shared), config.listener.interval);
        let (ended, mut drain_ended) = tokio::sync::oneshot::channel();
        thread::Builder::new().name("acceptd-drain".to_owned()).spawn(move || {
            // The receiver is gone only when the agent is.
            _ = ended.send(drain.run());
        })?;
        announce(config, &capture);
        ask_endpoint(destination.as_ref(), config.export.timeout);

        let drained = tokio::select! {
            signal = stop.next() => {
                tracing::info!("{signal}: detaching, draining, flushing for at most {:?}", config.shutdown.timeout);
                shared.stop();
                (&mut drain_ended).await
            }
            ended = &mut drain_ended => ended,
        };
        let drained = drained.context("the drain thread died")??;
        finish(config, capture, drained, exporter).await
    })
}

async fn finish(
    config: &Config,
    programs: Capture,
    drained: Drained,
    exporter: Option<Exporter>,
) -> anyhow::Result<Summary> {
    let destination = match exporter {
        Some(exporter) => Some(exporter.shutdown(Instant::now() + config.shutdown.timeout).await),
        None => None,
    };
    let capture = CaptureLedger::new(&drained.kernel, &drained.drain);
    Ok(Summary {
        programs,
        capture,
        hook_missed: drained.hook_missed,
        export: destination,
        console: drained.console,
    })
}

/// Loads the programs, and says what is wrong with this host: the short form of `acceptd check`.
fn load_checked(config: &Config, filter: &Filter) -> anyhow::Result<Programs> {
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
    let settings = settings(config, filter)?;
    let programs = heard::load(&mut facts, &settings, |programs| canary::is_counted(programs))
        .map_err(|error| explained(&facts, error.into()))?;
    for missing in &programs.capture.missing {
        tracing::warn!("without {}: {}", missing.feature, missing.reason);
    }
    // What was loaded needs no verdict any more.
    for Item { looked_at, because, remedy, verdict, .. } in preflight::items(&facts) {
        if matches!(verdict, Verdict::Failed | Verdict::Degraded) {
            tracing::warn!("{looked_at}: {because}; {remedy}");
        }
    }
    Ok(programs)
}

/// Whether the Collector takes records, so that somebody who has just started the agent need not wait for the first.
fn ask_endpoint(destination: Option<&Destination>, timeout: Duration) {
    let Some(Destination { target, settings, address }) = destination.cloned() else { return };
    tokio::spawn(async move {
        if let Err(reason) = probe(&target, &settings, Signal::Logs, timeout).await {
            tracing::warn!(
                "the Collector at {address} does not answer: {reason}; records wait for it, `acceptd check` says more"
            );
        }
    });
}

fn settings(config: &Config, filter: &Filter) -> anyhow::Result<Settings> {
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
        },
        filter: filter.clone(),
    })
}

fn profile(config: &Config) -> Result<Profile, String> {
    let attributes = &config.attributes;
    Profile::new(
        attributes.profile == crate::config::Profile::Full,
        &attributes.include,
        &attributes.exclude,
        attributes.event_name,
        config.limits.value_length,
    )
    .map_err(|error| {
        format!("attributes.include, attributes.exclude: {error}; docs/attributes.md lists them all")
    })
}

fn exporter(config: &Config, destination: Option<&Destination>) -> anyhow::Result<Option<Exporter>> {
    let Some(destination) = destination.cloned() else { return Ok(None) };
    Ok(Some(Exporter::spawn(destination.exporter(config, destination::spool(config)))?))
}

fn outputs(config: &Config, exporter: Option<Exporter>) -> Outputs {
    Outputs::new(exporter, config.output.map(|format| Console::new(format.into())))
}

fn identities(loaded: &Loaded, facts: &HostFacts) -> Identities {
    let config = &loaded.config;
    let extra = config.resource.attributes.clone().into_iter().collect();
    let own = loaded.agent_resource.clone().into_iter().collect();
    Identities::new(facts.clone(), Observer::new(&config.host.root), extra, own, config.limits.value_length)
}

/// What gathers records, and how long one waits for others.
fn batches(config: &Config) -> (BatchBuilder, Duration) {
    let builder = BatchBuilder::new(BatchLimits {
        max_records: u32::try_from(config.batch.max_records).unwrap_or(u32::MAX),
        max_bytes: config.batch.max_bytes,
    });
    let timeout = if config.output.is_some() {
        config.batch.timeout.min(CONSOLE_BATCH_TIMEOUT)
    } else {
        config.batch.timeout
    };
    (builder, timeout)
}

fn announce(config: &Config, capture: &Capture) {
    let to = match (&config.export.endpoint, config.output) {
        (Some(endpoint), _) => format!("sends them to {endpoint}"),
        (None, Some(_)) => "prints them".to_owned(),
        (None, None) => "only counts them (no endpoint, no output)".to_owned(),
    };
    tracing::info!(
        "acceptd {} captures accepts ({}, ring of {} bytes) and {to}",
        env!("CARGO_PKG_VERSION"),
        capture.tier,
        config.capture.ring_bytes,
    );
}

/// The last words: what was seen, what became of it, and whether that adds up.
fn report(summary: &Summary, for_programs: bool) -> ExitCode {
    let ledger = if for_programs { summary.ledger_line() } else { String::new() };
    _ = write!(io::stderr(), "{summary}{ledger}");
    match summary.check() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&anyhow!("the ledger does not add up: {error}; please report this")),
    }
}
