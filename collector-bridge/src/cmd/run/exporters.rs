//! The exporters of log records, spans and the agent's own metrics: how they start, and how they are flushed
//! at the end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use acceptd_otlp::{EncodedResource, Exporter, LedgerSnapshot, Signal, check_target};
use anyhow::Context as _;
use futures_util::future::join_all;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality as SdkTemporality};
use tokio::time;

use crate::{
    bpf::CaptureMode,
    config::{
        Config, Loaded, Scope, Temporality, View,
        destination::{Destination, TRACES_DESTINATION, record_destinations, spool_config},
    },
    health::{metrics::otel, snapshot::HealthSource, summary::Summary},
    pipeline::{Console, NamedExporter, NamedLedger, Outputs, handle::CounterSnapshot},
};

/// Minimum time for the last metrics, even if the flush of the records has used up the shutdown timeout.
const LAST_METRICS_TIMEOUT: Duration = Duration::from_millis(500);

/// The exporters of one run.
#[derive(Clone)]
pub(super) struct Exporters {
    /// The exporters of log records, one for each destination.
    pub(super) logs: Vec<NamedExporter>,
    /// The exporter of spans; `None` if spans are not sent.
    pub(super) traces: Option<Exporter>,
    /// The exporter of the agent's own metrics; `None` if they are not sent.
    pub(super) metrics: Option<Exporter>,
}

impl Exporters {
    /// Starts an exporter for each destination. Must be called within a runtime.
    pub(super) fn spawn(loaded: &Loaded) -> anyhow::Result<Self> {
        Ok(Self {
            logs: spawn_log_exporters(loaded)?,
            traces: spawn_trace_exporter(loaded)?,
            metrics: spawn_metric_exporter(loaded)?,
        })
    }

    /// The outputs of log records: the exporters, and the console if records are printed.
    pub(super) fn log_outputs(&self, config: &Config) -> Outputs {
        Outputs::new(self.logs.clone()).with_console(config.output.map(Console::new))
    }

    /// Flushes all exporters of records and spans at the same time, and the agent's own metrics last, so that
    /// they include the result of the flush.
    pub(super) async fn finish(
        self,
        deadline: Instant,
        capture: CaptureMode,
        counters: &CounterSnapshot,
        metrics: Option<MetricsExport>,
    ) -> Summary {
        let Self { logs, traces, .. } = self;
        let exporters = logs.iter().map(|named| &named.exporter).chain(&traces);
        join_all(exporters.map(|exporter| exporter.clone().shutdown(deadline))).await;
        let ledgers: Vec<NamedLedger> = logs.iter().map(NamedExporter::ledger).collect();
        let metrics = match metrics {
            Some(metrics) => Some(metrics.finish(deadline).await),
            None => None,
        };
        Summary::new(capture, counters, &ledgers, traces.as_ref().map(Exporter::ledger), metrics)
    }
}

fn spawn_log_exporters(loaded: &Loaded) -> anyhow::Result<Vec<NamedExporter>> {
    let mut exporters = Vec::new();
    for (name, view) in record_destinations(loaded) {
        let Some(destination) = destination(&view, Signal::Logs)? else { continue };
        let spool = spool_config(&view.config, &name);
        let exporter = Exporter::spawn(destination.exporter_config(&view.config, spool))
            .with_context(|| format!("the destination {name}"))?;
        exporters.push(NamedExporter { name, exporter });
    }
    Ok(exporters)
}

fn spawn_trace_exporter(loaded: &Loaded) -> anyhow::Result<Option<Exporter>> {
    let view = loaded.view(&Scope::Signal(Signal::Traces));
    let destination = destination(&view, Signal::Traces)?;
    let Some(destination) = destination.filter(|_| view.config.traces.export) else { return Ok(None) };
    let spool = spool_config(&view.config, TRACES_DESTINATION);
    let exporter = Exporter::spawn(destination.exporter_config(&view.config, spool));
    Ok(Some(exporter.context("the destination of traces")?))
}

/// Metrics have no spool: after an outage, old values are of no use.
fn spawn_metric_exporter(loaded: &Loaded) -> anyhow::Result<Option<Exporter>> {
    let view = loaded.view(&Scope::Signal(Signal::Metrics));
    let destination = destination(&view, Signal::Metrics)?;
    let Some(destination) = destination.filter(|_| view.config.metrics.export) else { return Ok(None) };
    let exporter = Exporter::spawn(destination.exporter_config(&view.config, None));
    Ok(Some(exporter.context("the destination of the agent's own metrics")?))
}

fn destination(view: &View, signal: Signal) -> anyhow::Result<Option<Destination>> {
    Destination::from_view(view, signal).map_err(anyhow::Error::msg)
}

/// The targets of log records, for messages.
pub(super) fn record_targets(loaded: &Loaded) -> Vec<String> {
    let targets = record_destinations(loaded)
        .into_iter()
        .filter_map(|(_, view)| Some(Destination::from_view(&view, Signal::Logs).ok()??.target.to_string()));
    targets.collect()
}

/// Sends an empty request to each Collector of log records in the background, and logs a warning if it is not
/// accepted. Otherwise the operator who started the agent would learn of a mistake only after the first
/// batch.
pub(super) fn check_destinations(loaded: &Loaded) {
    for (_, view) in record_destinations(loaded) {
        // An error was already returned by `Exporters::spawn`; files need no check.
        let Ok(Some(Destination { target, settings, address: Some(_) })) =
            Destination::from_view(&view, Signal::Logs)
        else {
            continue;
        };
        tokio::spawn(async move {
            let timeout = view.config.export.timeout;
            if let Err(reason) = check_target(&target, &settings, Signal::Logs, timeout).await {
                tracing::warn!(
                    "{target} does not accept records: {reason}; records wait and are retried; run `acceptd check` for the remedy"
                );
            }
        });
    }
}

/// The export of the agent's own metrics.
pub(super) struct MetricsExport {
    exporter: Exporter,
    provider: SdkMeterProvider,
}

impl MetricsExport {
    /// Exports the metrics of `health` every `metrics.interval`, with the agent's own Resource.
    pub(super) fn start(
        config: &Config,
        health: Arc<HealthSource>,
        exporter: Exporter,
        resource: &EncodedResource,
    ) -> Self {
        let (interval, temporality) = (config.metrics.interval, sdk_temporality(config));
        Self { provider: otel::provider(health, exporter.clone(), resource, interval, temporality), exporter }
    }

    /// Sends the last metrics. Gives them [`LAST_METRICS_TIMEOUT`] even if `deadline` has passed.
    async fn finish(self, deadline: Instant) -> LedgerSnapshot {
        let Self { exporter, provider } = self;
        // Until then the metrics show a snapshot from before the flush.
        time::sleep(otel::REUSED_FOR).await;
        if let Err(error) = provider.shutdown() {
            tracing::debug!("the last metrics are not sent: {error}");
        }
        exporter.shutdown(deadline.max(Instant::now() + LAST_METRICS_TIMEOUT)).await
    }
}

fn sdk_temporality(config: &Config) -> SdkTemporality {
    match config.metrics.temporality {
        Temporality::Cumulative => SdkTemporality::Cumulative,
        Temporality::Delta => SdkTemporality::Delta,
        Temporality::LowMemory => SdkTemporality::LowMemory,
    }
}
