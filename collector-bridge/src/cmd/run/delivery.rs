//! Where records and the agent's own metrics go, and how that ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use acceptd_otlp::{EncodedResource, Exporter, Signal, probe};
use anyhow::Context as _;
use futures_util::future::join_all;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality as SdkTemporality};
use tokio::time;

use crate::{
    bpf::Capture,
    config::{Config, Loaded, Scope, Temporality},
    health::{
        metrics::otel,
        snapshot::{Delivery, Outlet, Vitals},
        summary::Summary,
    },
    pipeline::{
        destination::{
            Destination, {self},
        },
        drain::Stock,
        outputs::{Console, Outputs},
    },
};

/// How long the agent's last metrics may take at least.
const LAST_METRICS: Duration = Duration::from_millis(500);

pub(super) fn outlets(loaded: &Loaded) -> anyhow::Result<Vec<Outlet>> {
    let mut outlets = Vec::new();
    for (name, view) in destination::of_records(loaded) {
        let Some(destination) = destination::of(&view, Signal::Logs).map_err(anyhow::Error::msg)? else {
            continue;
        };
        let spool = destination::spool(&view.config, &name);
        let exporter = Exporter::spawn(destination.exporter(&view.config, spool))
            .with_context(|| format!("the destination {name}"))?;
        outlets.push(Outlet { name, exporter });
    }
    Ok(outlets)
}

/// Metrics wait in memory only: those of yesterday are of no use.
pub(super) fn metrics_exporter(loaded: &Loaded) -> anyhow::Result<Option<Exporter>> {
    let view = loaded.view(&Scope::Signal(Signal::Metrics));
    let destination = destination::of(&view, Signal::Metrics).map_err(anyhow::Error::msg)?;
    let Some(destination) = destination.filter(|_| view.config.metrics.export) else { return Ok(None) };
    let exporter = Exporter::spawn(destination.exporter(&view.config, None));
    Ok(Some(exporter.context("the destination of the agent's own metrics")?))
}

/// Where spans go, if they are sent.
pub(super) fn traces_exporter(loaded: &Loaded) -> anyhow::Result<Option<Exporter>> {
    let view = loaded.view(&Scope::Signal(Signal::Traces));
    let destination = destination::of(&view, Signal::Traces).map_err(anyhow::Error::msg)?;
    let Some(destination) = destination.filter(|_| view.config.traces.export) else { return Ok(None) };
    let spool = destination::spool(&view.config, destination::TRACES);
    let exporter = Exporter::spawn(destination.exporter(&view.config, spool));
    Ok(Some(exporter.context("the destination of traces")?))
}

pub(super) fn outputs(config: &Config, outlets: &[Outlet]) -> Outputs {
    let exporters = outlets.iter().map(|outlet| (outlet.name.clone(), outlet.exporter.clone())).collect();
    Outputs::new(exporters, config.output.map(|format| Console::new(format.into())))
}

/// Whether each destination takes records, so that somebody who has just started the agent need not wait for the first.
pub(super) fn ask_destinations(loaded: &Loaded) {
    for (_, view) in destination::of_records(loaded) {
        // What is wrong with it was said by now.
        let Ok(Some(Destination { target, settings, address: Some(_) })) =
            destination::of(&view, Signal::Logs)
        else {
            continue;
        };
        tokio::spawn(async move {
            if let Err(reason) = probe(&target, &settings, Signal::Logs, view.config.export.timeout).await {
                tracing::warn!(
                    "{target} does not answer: {reason}; records wait for it, `acceptd check` says more"
                );
            }
        });
    }
}

fn temporality(config: &Config) -> SdkTemporality {
    match config.metrics.temporality {
        Temporality::Cumulative => SdkTemporality::Cumulative,
        Temporality::Delta => SdkTemporality::Delta,
        Temporality::LowMemory => SdkTemporality::LowMemory,
    }
}

/// The agent's own metrics on their way.
pub(super) struct Measured {
    exporter: Exporter,
    provider: SdkMeterProvider,
}

/// Flushes every destination at the same time, the agent's own metrics last: they tell of the flush.
pub(super) async fn finish(
    deadline: Instant,
    programs: Capture,
    drained: &Stock,
    outlets: Vec<Outlet>,
    traces: Option<Exporter>,
    measured: Option<Measured>,
) -> Summary {
    let exporters = outlets.iter().map(|outlet| &outlet.exporter).chain(&traces);
    join_all(exporters.map(|exporter| exporter.clone().shutdown(deadline))).await;
    let deliveries: Vec<Delivery> = outlets.iter().map(Delivery::of).collect();
    let metrics = match measured {
        Some(Measured { provider, exporter }) => {
            // The last ones are of after the flush.
            time::sleep(otel::MOMENT).await;
            if let Err(error) = provider.shutdown() {
                tracing::debug!("the last metrics are not sent: {error}");
            }
            // A destination of records that took all the time takes none of theirs.
            Some(exporter.shutdown(deadline.max(Instant::now() + LAST_METRICS)).await)
        }
        None => None,
    };
    Summary::new(programs, drained, &deliveries, traces.as_ref().map(Exporter::ledger), metrics)
}

impl Measured {
    /// Sends the metrics of `vitals` under the agent's own Resource.
    pub(super) fn new(
        config: &Config,
        vitals: Arc<Vitals>,
        exporter: Exporter,
        resource: &EncodedResource,
    ) -> Self {
        let (interval, temporality) = (config.metrics.interval, temporality(config));
        Self { provider: otel::provider(vitals, exporter.clone(), resource, interval, temporality), exporter }
    }
}
