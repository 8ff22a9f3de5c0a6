//! Exports the metrics through the OpenTelemetry SDK, which hands them to the agent's own exporter: they have
//! the same retries and the same kind of ledger as records.

mod cache;
mod histograms;
mod key_value;
mod resources;

use std::{sync::Arc, time::Duration};

use acceptd_otlp::{
    Batch, DISTRO_NAME, EncodedResource, Exporter, Signal, VERSION,
    names::{MetricName, SCHEMA_URL},
};
pub(crate) use cache::REUSED_FOR;
use cache::SnapshotCache;
use histograms::Histograms;
use key_value::key_value;
use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{Meter, MeterProvider as _},
};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest, resource::v1::Resource,
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, SdkMeterProvider, Stream, Temporality, data::ResourceMetrics,
        exporter::PushMetricExporter,
    },
};
use prost::Message as _;

use super::{
    all,
    instrument::{Amount, Instrument, Metric},
};
use crate::health::snapshot::HealthSource;

/// Most points of one metric. Each listener has one for each error, so the SDK's default of 2000 may be too
/// few.
const MOST_POINTS: usize = 4096;

/// Sends the metrics of `source` to `exporter` every `interval`, and once more when it is shut down: those of
/// listeners in containers under a Resource of the container, all others under the agent's own Resource.
#[must_use]
pub(crate) fn provider(
    source: Arc<HealthSource>,
    exporter: Exporter,
    resource: &EncodedResource,
    interval: Duration,
    temporality: Temporality,
) -> SdkMeterProvider {
    // This crate encoded the Resource: decoding cannot fail.
    let resource = Resource::decode(resource.as_bytes()).unwrap_or_default();
    let cache = Arc::new(SnapshotCache::new(source));
    let histograms = Histograms::new(Arc::clone(&cache), temporality);
    let bridge = ExporterBridge { exporter, temporality, resource, histograms };
    let reader = PeriodicReader::builder(bridge).with_interval(interval).build();
    let provider = SdkMeterProvider::builder()
        .with_resource(opentelemetry_sdk::Resource::builder_empty().build())
        .with_reader(reader)
        .with_view(|_: &opentelemetry_sdk::metrics::Instrument| {
            Stream::builder().with_cardinality_limit(MOST_POINTS).build().ok()
        })
        .build();
    let scope =
        InstrumentationScope::builder(DISTRO_NAME).with_version(VERSION).with_schema_url(SCHEMA_URL).build();
    let meter = provider.meter_with_scope(scope);
    for metric in all() {
        register(metric, &meter, Arc::clone(&cache));
    }
    provider
}

/// Makes the instrument of a metric. The provider keeps it: what the builder returns is only a handle.
fn register(metric: &'static Metric, meter: &Meter, cache: Arc<SnapshotCache>) {
    let MetricName { name, unit, brief, .. } = metric.name;
    match metric.instrument {
        Instrument::Counter => {
            _ = meter
                .u64_observable_counter(name)
                .with_unit(unit)
                .with_description(brief)
                .with_callback(move |to| {
                    observe(metric, &cache, |amount, attributes| to.observe(count(amount), attributes));
                })
                .build();
        }
        Instrument::TimeCounter => {
            _ = meter
                .f64_observable_counter(name)
                .with_unit(unit)
                .with_description(brief)
                .with_callback(move |to| {
                    observe(metric, &cache, |amount, attributes| to.observe(seconds(amount), attributes));
                })
                .build();
        }
        Instrument::Gauge => {
            _ = meter
                .f64_observable_gauge(name)
                .with_unit(unit)
                .with_description(brief)
                .with_callback(move |to| {
                    observe(metric, &cache, |amount, attributes| to.observe(seconds(amount), attributes));
                })
                .build();
        }
        Instrument::UpDownCounter => {
            _ = meter
                .i64_observable_up_down_counter(name)
                .with_unit(unit)
                .with_description(brief)
                .with_callback(move |to| {
                    observe(metric, &cache, |amount, attributes| {
                        to.observe(i64::try_from(count(amount)).unwrap_or(i64::MAX), attributes);
                    });
                })
                .build();
        }
    }
}

/// Calls `each` for every value of a metric in the snapshot of this export.
fn observe(metric: &Metric, cache: &SnapshotCache, mut each: impl FnMut(Amount, &[KeyValue])) {
    metric.values(&cache.snapshot(), |amount, attributes| {
        let attributes: Vec<KeyValue> = attributes.iter().map(key_value).collect();
        each(amount, &attributes);
    });
}

fn count(amount: Amount) -> u64 {
    match amount {
        Amount::Count(count) => count,
        Amount::Seconds(_) => 0,
    }
}

fn seconds(amount: Amount) -> f64 {
    match amount {
        Amount::Count(_) => 0.0,
        Amount::Seconds(seconds) => seconds,
    }
}

/// The exporter that the SDK sees: encodes what the SDK collected, adds the histograms, and hands the request
/// on.
struct ExporterBridge {
    exporter: Exporter,
    temporality: Temporality,
    /// The Resource of the agent's events. It replaces the SDK's, whose type cannot hold all of its
    /// attributes.
    resource: Resource,
    histograms: Histograms,
}

impl PushMetricExporter for ExporterBridge {
    #[expect(clippy::unused_async_trait_impl, reason = "the SDK's trait is async")]
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut request = ExportMetricsServiceRequest::from(metrics);
        for resource_metrics in &mut request.resource_metrics {
            resource_metrics.resource = Some(self.resource.clone());
            SCHEMA_URL.clone_into(&mut resource_metrics.schema_url);
        }
        let mut scopes = request.resource_metrics.iter_mut().flat_map(|resource| &mut resource.scope_metrics);
        if let Some(scope) = scopes.next() {
            scope.metrics.extend(self.histograms.export());
        }
        request.resource_metrics =
            request.resource_metrics.into_iter().flat_map(resources::by_container).collect();
        let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
        let metrics = scopes.map(|scope| scope.metrics.len()).sum::<usize>();
        let records = u32::try_from(metrics).unwrap_or(u32::MAX);
        if records > 0 {
            let request = request.encode_to_vec().into();
            self.exporter.push(Batch { signal: Signal::Metrics, request, records });
        }
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        self.temporality
    }
}
