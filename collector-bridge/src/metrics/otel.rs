//! The metrics through the OpenTelemetry SDK, and on by the agent's own exporter: its retries, its ledger, its words.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use acceptd_otlp::{Batch, DISTRO_NAME, EncodedResource, Exporter, Signal, VERSION, names::SCHEMA_URL};
use opentelemetry::{InstrumentationScope, KeyValue, metrics::MeterProvider as _};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest, resource::v1::Resource,
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, SdkMeterProvider, Temporality, data::ResourceMetrics, exporter::PushMetricExporter,
    },
};
use prost::Message as _;

use super::{Amount, Attributes, Instrument, METRICS, Metric};
use crate::vitals::{Reading, Vitals};

/// All metrics of one export are of one moment: an export asks for them within less.
pub const MOMENT: Duration = Duration::from_millis(20);

/// Sends the metrics of `vitals` to `exporter` every `interval`, and once more when it is shut down, under the agent's own
/// Resource.
#[must_use]
pub fn provider(
    vitals: Arc<Vitals>,
    exporter: Exporter,
    resource: &EncodedResource,
    interval: Duration,
    temporality: Temporality,
) -> SdkMeterProvider {
    // What was encoded here can be decoded.
    let resource = Resource::decode(resource.as_bytes()).unwrap_or_default();
    let bridge = Bridge { exporter, temporality, resource };
    let reader = PeriodicReader::builder(bridge).with_interval(interval).build();
    let provider = SdkMeterProvider::builder()
        .with_resource(opentelemetry_sdk::Resource::builder_empty().build())
        .with_reader(reader)
        .build();
    let scope =
        InstrumentationScope::builder(DISTRO_NAME).with_version(VERSION).with_schema_url(SCHEMA_URL).build();
    let meter = provider.meter_with_scope(scope);
    let moment = Arc::new(Moment { vitals, last: Mutex::new(None) });
    for metric in METRICS {
        let moment = Arc::clone(&moment);
        let (name, unit, brief) = (metric.name, metric.unit, metric.brief);
        // The instrument lives in the provider: what the builder returns is only a handle.
        match metric.instrument {
            Instrument::Counter => {
                _ = meter
                    .u64_observable_counter(name)
                    .with_unit(unit)
                    .with_description(brief)
                    .with_callback(move |to| {
                        moment.each(metric, |amount, attributes| to.observe(count(amount), attributes));
                    })
                    .build();
            }
            Instrument::TimeCounter => {
                _ = meter
                    .f64_observable_counter(name)
                    .with_unit(unit)
                    .with_description(brief)
                    .with_callback(move |to| {
                        moment.each(metric, |amount, attributes| to.observe(seconds(amount), attributes));
                    })
                    .build();
            }
            Instrument::UpDownCounter => {
                _ = meter
                    .i64_observable_up_down_counter(name)
                    .with_unit(unit)
                    .with_description(brief)
                    .with_callback(move |to| {
                        moment.each(metric, |amount, attributes| {
                            to.observe(i64::try_from(count(amount)).unwrap_or(i64::MAX), attributes);
                        });
                    })
                    .build();
            }
        }
    }
    provider
}

/// One reading for all instruments.
struct Moment {
    vitals: Arc<Vitals>,
    last: Mutex<Option<(Instant, Arc<Reading>)>>,
}

impl Moment {
    fn each(&self, metric: &Metric, mut each: impl FnMut(Amount, &[KeyValue])) {
        let key_values = |attributes: Attributes<'_>| -> Vec<KeyValue> {
            attributes.iter().map(|(key, value)| KeyValue::new(*key, (*value).to_owned())).collect()
        };
        metric.values(&self.reading(), |amount, attributes| each(amount, &key_values(attributes)));
    }

    fn reading(&self) -> Arc<Reading> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, reading)) = &*last
            && at.elapsed() < MOMENT
        {
            return Arc::clone(reading);
        }
        let reading = Arc::new(self.vitals.read());
        *last = Some((Instant::now(), Arc::clone(&reading)));
        reading
    }
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

/// From the SDK to the agent's own exporter.
struct Bridge {
    exporter: Exporter,
    temporality: Temporality,
    /// The one that the agent's events have, which the SDK's own type cannot hold.
    resource: Resource,
}

impl PushMetricExporter for Bridge {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut request = ExportMetricsServiceRequest::from(metrics);
        for of_resource in &mut request.resource_metrics {
            of_resource.resource = Some(self.resource.clone());
            SCHEMA_URL.clone_into(&mut of_resource.schema_url);
        }
        let items =
            request.resource_metrics.iter().flat_map(|of| &of.scope_metrics).map(|of| of.metrics.len());
        let records = u32::try_from(items.sum::<usize>()).unwrap_or(u32::MAX);
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
