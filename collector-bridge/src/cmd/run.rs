//! `acceptd run` and `acceptd watch`: the life of the agent, from the configuration to the last report.
//!
//! In the order of a run: `settings` translates the configuration, `start` prepares the host and loads the
//! programs, `lifetime` guards the state directory, `exporters` opens the destinations, `reload` applies a
//! SIGHUP.

mod exporters;
mod lifetime;
mod reload;
mod settings;
mod start;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Instant,
};

use acceptd_otlp::AttributeFilter;
use anyhow::{Context as _, anyhow};
use exporters::{Exporters, MetricsExport};
use lifetime::{Heartbeat, Lifetime};
use reload::{Load, Reloader};
use start::Capture;
use tokio::sync::oneshot;

use super::{failure, usage_error};
use crate::{
    bpf::{CaptureMode, filter::EventFilter},
    cmd::{
        logging::{self, LogLevelHandle},
        signals::{ReloadSignal, StopSignal},
    },
    config::{Config, ConfigError, Loaded},
    health::{admin, memory, snapshot::HealthSource, summary::Summary},
    identity::{host::network_namespace, proc_dir::host_proc},
    pipeline::{
        ListenerMonitor, Recorder, RecorderDeps,
        drain::{Drain, SNAPSHOT_INTERVAL},
        handle::{CounterSnapshot, DrainHandle},
    },
};

/// Runs the agent until SIGINT or SIGTERM. At the end it prints a summary; with `prints_ledger`, also the
/// ledger as one line of JSON.
pub fn run(load: impl Fn() -> Result<Loaded, ConfigError>, prints_ledger: bool) -> ExitCode {
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => return usage_error(error.problems()),
    };
    let log_level = logging::init(&loaded.config);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let attributes = match settings::attribute_filter(&loaded.config) {
        Ok(attributes) => attributes,
        Err(problem) => return usage_error([problem]),
    };
    let filter = match settings::event_filter(&loaded.config) {
        Ok(filter) => filter,
        Err(problem) => return usage_error([problem]),
    };
    match capture_and_run(&loaded, &load, log_level, attributes, filter) {
        Ok(summary) => report(&summary, prints_ledger),
        Err(error) => failure(&error),
    }
}

/// Attaches the programs, runs the agent, and returns what it counted.
fn capture_and_run(
    loaded: &Loaded,
    load: Load<'_>,
    log_level: LogLevelHandle,
    attributes: AttributeFilter,
    filter: EventFilter,
) -> anyhow::Result<Summary> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let capture = start::capture(loaded, &filter)?;
    memory::release_unused();
    let summary = runtime.block_on(async {
        let mut stop = StopSignal::listen().context("cannot install the signal handlers")?;
        let exporters = Exporters::spawn(loaded)?;
        let mut reload = reload_signal(&exporters)?;
        let mut reloader = Reloader::new(load, loaded.clone(), log_level, exporters.clone());
        let mut agent = Agent::start(loaded, attributes, filter, capture, exporters)?;
        // Before the message that it captures, so that a script may wait for that and then ask for the
        // status.
        serve_status(&loaded.config, &agent.health).await;
        announce(loaded, &agent.capture);
        exporters::check_destinations(loaded);
        let counters = agent.run_until_stopped(&mut stop, &mut reload, &mut reloader).await?;
        let deadline = Instant::now() + reloader.shutdown_timeout();
        Ok(agent.finish(&counters, deadline).await)
    });
    // A thread that is blocked on a hung disk must not delay the exit.
    runtime.shutdown_background();
    summary
}

/// An agent that only prints does not catch SIGHUP, so that it ends with its terminal.
fn reload_signal(exporters: &Exporters) -> anyhow::Result<ReloadSignal> {
    if exporters.logs.is_empty() {
        return Ok(ReloadSignal::never());
    }
    ReloadSignal::listen().context("cannot install the signal handlers")
}

/// A running agent.
struct Agent {
    capture: CaptureMode,
    exporters: Exporters,
    health: Arc<HealthSource>,
    metrics: Option<MetricsExport>,
    drain: Arc<DrainHandle>,
    /// The result of the drain thread, once it has ended.
    drained: oneshot::Receiver<anyhow::Result<CounterSnapshot>>,
    heartbeat: Option<Heartbeat>,
}

impl Agent {
    /// Connects the parts of the agent, and starts its threads.
    fn start(
        loaded: &Loaded,
        attributes: AttributeFilter,
        filter: EventFilter,
        capture: Capture,
        exporters: Exporters,
    ) -> anyhow::Result<Self> {
        let Capture { host, ids, programs, lifetime, unobserved } = capture;
        let config = &loaded.config;
        let mode = programs.capture.clone();
        let drain_handle = Arc::new(DrainHandle::default());
        let health = Arc::new(HealthSource::new(
            &mode,
            &drain_handle,
            &exporters.logs,
            exporters.traces.as_ref(),
            exporters.metrics.as_ref(),
        ));
        let mut identities = settings::identities(loaded, &host);
        let resource = identities.agent();
        let metrics = exporters
            .metrics
            .clone()
            .map(|exporter| MetricsExport::start(config, Arc::clone(&health), exporter, &resource.resource));
        let recorder = Recorder::new(RecorderDeps {
            identities,
            ids,
            outputs: exporters.log_outputs(config),
            spans: exporters.traces.clone().map(|exporter| settings::span_output(config, exporter)),
            listeners: ListenerMonitor::new(
                &programs.listeners,
                filter,
                config.listener.stalled_after,
                // Long enough that one more export includes the last counts.
                config.metrics.interval + 2 * SNAPSHOT_INTERVAL,
            )
            .with_proc(host_proc(&config.host.root))
            .with_host_netns(network_namespace(&config.host.root)),
            settings: settings::reloadable_settings(config, attributes),
        });
        let drain =
            Drain::new(programs, recorder, Arc::clone(&drain_handle), config.listener.interval, unobserved);
        let drained = spawn_drain_thread(drain)?;
        let heartbeat = lifetime.and_then(start_heartbeat);
        Ok(Self { capture: mode, exporters, health, metrics, drain: drain_handle, drained, heartbeat })
    }

    /// Runs until a stop signal, or until the drain thread fails. Returns the final counters.
    async fn run_until_stopped(
        &mut self,
        stop: &mut StopSignal,
        reload: &mut ReloadSignal,
        reloader: &mut Reloader<'_>,
    ) -> anyhow::Result<CounterSnapshot> {
        let drained = loop {
            tokio::select! {
                () = reload.next() => reloader.reload(&self.drain),
                signal = stop.next() => {
                    let timeout = reloader.shutdown_timeout();
                    tracing::info!(
                        "{signal}: stopping; detaches the programs, drains the ring and flushes for at most {timeout:?}"
                    );
                    self.health.mark_stopping();
                    self.drain.stop();
                    break (&mut self.drained).await;
                }
                drained = &mut self.drained => break drained,
            }
        };
        drained.context("the drain thread panicked")?
    }

    /// Flushes every exporter until `deadline`, and notes in the state directory that the agent was stopped.
    async fn finish(self, counters: &CounterSnapshot, deadline: Instant) -> Summary {
        let Self { capture, exporters, metrics, heartbeat, .. } = self;
        let capture = capture.without(&counters.missing);
        let summary = exporters.finish(deadline, capture, counters, metrics).await;
        if let Some(Err(error)) = heartbeat.map(Heartbeat::stop) {
            tracing::warn!("the stop could not be noted, so the next start reports a crash: {error}");
        }
        summary
    }
}

/// Starts the drain thread. The receiver gets its result.
fn spawn_drain_thread(drain: Drain) -> io::Result<oneshot::Receiver<anyhow::Result<CounterSnapshot>>> {
    let (result, drained) = oneshot::channel();
    thread::Builder::new().name("acceptd-drain".to_owned()).spawn(move || {
        // The receiver is dropped only when the agent ends.
        _ = result.send(drain.run());
    })?;
    Ok(drained)
}

/// Starts the heartbeat thread. The agent works without it.
fn start_heartbeat(lifetime: Lifetime) -> Option<Heartbeat> {
    lifetime
        .start()
        .inspect_err(|error| {
            tracing::warn!(
                "no heartbeat thread, so the next start cannot tell how long no agent ran: {error}"
            );
        })
        .ok()
}

/// Starts the HTTP server of `admin.listen`. The agent works without it if the address cannot be bound.
async fn serve_status(config: &Config, health: &Arc<HealthSource>) {
    let Some(address) = config.admin.listen else { return };
    match admin::bind(address).await {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            tracing::info!("serves http://{address}/status and http://{address}/metrics");
            tokio::spawn(admin::serve(listener, Arc::clone(health)));
        }
        Err(problem) => tracing::warn!("{problem}"),
    }
}

/// Logs that the agent captures, in which tier, and where the records go.
fn announce(loaded: &Loaded, capture: &CaptureMode) {
    let config = &loaded.config;
    let targets = exporters::record_targets(loaded);
    let records = match (targets.is_empty(), config.output) {
        (false, _) => format!("sends records to {}", targets.join(" and ")),
        (true, Some(_)) => "prints records".to_owned(),
        (true, None) => "only counts them (there is neither an endpoint nor an output)".to_owned(),
    };
    tracing::info!(
        "acceptd {} captures accepts ({}, ring buffer of {} bytes) and {records}",
        env!("CARGO_PKG_VERSION"),
        capture.tier,
        config.capture.ring_bytes,
    );
}

/// Prints the summary, and checks that the ledger is balanced: every event that was seen is accounted for.
fn report(summary: &Summary, prints_ledger: bool) -> ExitCode {
    let ledger = if prints_ledger { summary.ledger_line() } else { String::new() };
    _ = write!(io::stderr(), "{summary}{ledger}");
    match summary.check() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&anyhow!("the ledger is not balanced: {error}; please report this bug")),
    }
}
