//! `acceptd run` and `acceptd watch`: the agent.

mod delivery;
mod lifetime;
mod record;
mod reload;
mod start;

use std::{
    io::{
        Write as _, {self},
    },
    process::ExitCode,
    sync::Arc,
    thread,
    time::Instant,
};

use acceptd_otlp::{Profile, Signal};
use anyhow::{Context as _, anyhow};
use delivery::Measured;
use reload::{Load, Reloader};

use super::{failed, unusable};
use crate::{
    bpf::{Capture, filter::Filter},
    clock,
    cmd::{
        logging::{
            Level, {self},
        },
        run::lifetime::{Heart, Lifetime},
        stop::{Reload, Stop},
    },
    config::{Config, ConfigError, Loaded},
    health::{admin, memory, snapshot::Vitals, summary::Summary},
    identity::host,
    listener::{series::AllSeries, table::Listeners},
    mapping::ids::Ids,
    pipeline::{
        destination,
        drain::{Drain, STOCK_EVERY, Shared},
        overload::Overload,
        recorder::{Parts, Recorder},
    },
    preflight::gather,
};

/// Runs the agent with this configuration until SIGINT or SIGTERM. In the end it prints its counts, `for_programs` also as
/// one line of JSON.
pub fn run(load: impl Fn() -> Result<Loaded, ConfigError>, for_programs: bool) -> ExitCode {
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => return unusable(error.problems()),
    };
    let level = logging::to_stderr(&loaded.config);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let profile = match record::profile(&loaded.config) {
        Ok(profile) => profile,
        Err(error) => return unusable([error]),
    };
    let filter = match filter(&loaded.config) {
        Ok(filter) => filter,
        Err(error) => return unusable([error]),
    };
    match agent(&loaded, &load, level, profile, filter) {
        Ok(summary) => report(&summary, for_programs),
        Err(error) => failed(&error),
    }
}

/// What is recorded at all.
fn filter(config: &Config) -> Result<Filter, String> {
    Filter::new(&config.filter, &config.filter_exclude, &gather::cgroups(&config.host.root))
}

fn agent(
    loaded: &Loaded,
    load: Load<'_>,
    level: Level,
    profile: Profile,
    filter: Filter,
) -> anyhow::Result<Summary> {
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
    let (lifetime, blind) = start::lifetime(loaded, &filter, &facts.boot_id)?;
    let ids = Ids::new(facts.host.id.as_deref().unwrap_or_default(), &facts.boot_id);
    let traces = record::traces(loaded, &ids, lifetime.is_some());
    let began = Instant::now();
    let programs = start::load_checked(config, &filter, traces)?;
    let blind = blind.map(|blind| blind + began.elapsed());
    let capture = programs.capture.clone();
    memory::give_back();
    let summary = runtime.block_on(async {
        let mut stop = Stop::listen().context("cannot catch signals")?;
        let outlets = delivery::outlets(loaded)?;
        let traces = delivery::traces_exporter(loaded)?;
        let metrics = delivery::metrics_exporter(loaded)?;
        // Whoever only prints ends with its terminal.
        let mut hangups = if outlets.is_empty() {
            Reload::never()
        } else {
            Reload::listen().context("cannot catch signals")?
        };
        let shared = Arc::new(Shared::default());
        let vitals = Vitals::new(&capture, &shared, &outlets, traces.as_ref(), metrics.as_ref());
        let vitals = Arc::new(vitals);
        let mut identities = record::identities(loaded, &facts);
        let resource = identities.agent();
        let measured = metrics
            .clone()
            .map(|exporter| Measured::new(config, Arc::clone(&vitals), exporter, &resource.resource));
        let recorder = Recorder::new(Parts {
            identities,
            ids,
            profile,
            peers: config.privacy.peer_address,
            events: config.events.clone(),
            filter,
            builder: record::builder(config),
            timeout: record::timeout(config),
            outputs: delivery::outputs(config, &outlets),
            listeners: Listeners::new(
                &programs.listeners,
                config.listener.stalled_after,
                clock::now_boot_nanos(),
            ),
            overload: Overload::new(config.overload.max_records_per_second as u64),
            // Whoever reads the metrics reads what was counted last.
            series: AllSeries::new(clock::now_unix_nanos(), config.metrics.interval + 2 * STOCK_EVERY),
            spans: traces.clone().map(|exporter| record::spans(config, exporter)),
        });
        let drain = Drain::new(programs, recorder, Arc::clone(&shared), config.listener.interval, blind);
        let (ended, mut drain_ended) = tokio::sync::oneshot::channel();
        thread::Builder::new().name("acceptd-drain".to_owned()).spawn(move || {
            // The receiver is gone only when the agent is.
            _ = ended.send(drain.run());
        })?;
        let heart = lifetime.map(Lifetime::go_on).transpose().unwrap_or_else(|error| {
            tracing::warn!("the next start will not know until when this agent ran: {error}");
            None
        });
        announce(loaded, &capture);
        show(config, &vitals).await;
        delivery::ask_destinations(loaded);

        let mut reloader = Reloader {
            load,
            loaded: loaded.clone(),
            level,
            shared: Arc::clone(&shared),
            outlets: outlets.clone(),
            traces: traces.clone(),
            metrics,
        };
        let drained = loop {
            tokio::select! {
                () = hangups.next() => reloader.reload(),
                signal = stop.next() => {
                    let timeout = reloader.loaded.config.shutdown.timeout;
                    tracing::info!("{signal}: detaching, draining, flushing for at most {timeout:?}");
                    vitals.stops();
                    shared.stop();
                    break (&mut drain_ended).await;
                }
                ended = &mut drain_ended => break ended,
            }
        };
        let drained = drained.context("the drain thread died")??;
        let deadline = Instant::now() + reloader.loaded.config.shutdown.timeout;
        let summary = delivery::finish(deadline, capture, &drained, outlets, traces, measured).await;
        if let Some(Err(error)) = heart.map(Heart::end) {
            tracing::warn!("the next start will take this stop for a crash: {error}");
        }
        Ok(summary)
    });
    // A disk that hangs is not waited for.
    runtime.shutdown_background();
    summary
}

/// Serves what `admin.listen` asks for. An agent that cannot be asked still works.
async fn show(config: &Config, vitals: &Arc<Vitals>) {
    let Some(address) = config.admin.listen else { return };
    match admin::bind(address).await {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            tracing::info!("shows its status at http://{address}/status and /metrics");
            tokio::spawn(admin::serve(listener, Arc::clone(vitals)));
        }
        Err(problem) => tracing::warn!("{problem}"),
    }
}

fn announce(loaded: &Loaded, capture: &Capture) {
    let config = &loaded.config;
    let targets: Vec<String> = destination::of_records(loaded)
        .iter()
        .filter_map(|(_, view)| Some(destination::of(view, Signal::Logs).ok()??.target.to_string()))
        .collect();
    let to = match (targets.is_empty(), config.output) {
        (false, _) => format!("sends them to {}", targets.join(" and ")),
        (true, Some(_)) => "prints them".to_owned(),
        (true, None) => "only counts them (no endpoint, no output)".to_owned(),
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
