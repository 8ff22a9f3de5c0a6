//! The metrics through the OpenTelemetry SDK, and on by the agent's own exporter: its retries, its ledger, its words.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use acceptd_common::histogram::SCALE;
use acceptd_otlp::{
    Batch, DISTRO_NAME, EncodedResource, Exporter, Signal, VERSION,
    names::{MetricName, SCHEMA_URL},
};
use opentelemetry::{InstrumentationScope, KeyValue, Value, metrics::MeterProvider as _};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{
        exponential_histogram_data_point::Buckets,
        {self as proto},
    },
    resource::v1::Resource,
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
    Amount, Attributes, Instrument, Label, Metric, all,
    listener::{
        TIMES, with_labels, {self},
    },
};
use crate::{
    clock,
    health::snapshot::{Reading, Vitals},
    listener::{
        histogram::{Exponential, Histogram},
        series::Labels,
    },
};

/// Points of one metric.
const MOST_POINTS: usize = 4096;

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
    let moment = Arc::new(Moment { vitals, last: Mutex::new(None) });
    let times = Times { moment: Arc::clone(&moment), temporality, told: Mutex::default() };
    let bridge = Bridge { exporter, temporality, resource, times };
    let reader = PeriodicReader::builder(bridge).with_interval(interval).build();
    let provider = SdkMeterProvider::builder()
        .with_resource(opentelemetry_sdk::Resource::builder_empty().build())
        .with_reader(reader)
        // Each listener can have several errors.
        .with_view(|_: &opentelemetry_sdk::metrics::Instrument| {
            Stream::builder().with_cardinality_limit(MOST_POINTS).build().ok()
        })
        .build();
    let scope =
        InstrumentationScope::builder(DISTRO_NAME).with_version(VERSION).with_schema_url(SCHEMA_URL).build();
    let meter = provider.meter_with_scope(scope);
    for metric in all() {
        let moment = Arc::clone(&moment);
        let MetricName { name, unit, brief, .. } = metric.name;
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
            Instrument::Gauge => {
                _ = meter
                    .f64_observable_gauge(name)
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

impl From<Label<'_>> for Value {
    fn from(label: Label<'_>) -> Self {
        match label {
            Label::Text(text) => text.to_owned().into(),
            Label::Number(number) => number.into(),
            Label::Flag(flag) => flag.into(),
        }
    }
}

/// One reading for all instruments.
struct Moment {
    vitals: Arc<Vitals>,
    last: Mutex<Option<(Instant, Arc<Reading>)>>,
}

impl Moment {
    fn each(&self, metric: &Metric, mut each: impl FnMut(Amount, &[KeyValue])) {
        let key_values = |attributes: Attributes<'_>| -> Vec<KeyValue> {
            attributes.iter().map(|(key, value)| KeyValue::new(*key, Value::from(*value))).collect()
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

/// The metrics of times, which the SDK does not make (see [`Histogram`]).
struct Times {
    moment: Arc<Moment>,
    temporality: Temporality,
    /// What was exported last, and when, in nanoseconds since the Unix epoch.
    told: Mutex<Told>,
}

/// By metric and series. The series of no labels is the shared one.
#[derive(Default)]
struct Told {
    at_unix_ns: u64,
    histograms: HashMap<(&'static str, Option<Arc<Labels>>), Histogram>,
}

impl Times {
    fn metrics(&self) -> Vec<proto::Metric> {
        let reading = self.moment.reading();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now_unix_nanos();
        let is_delta = self.temporality != Temporality::Cumulative;
        let mut histograms = HashMap::new();
        let metrics = TIMES.iter().map(|metric| {
            let points = reading.stock.listeners.iter().filter_map(|series| {
                let whole = (metric.of)(series);
                let key = (metric.name.name, series.labels.clone());
                let before = told.histograms.get(&key).filter(|_| is_delta);
                let (since, start) = match before {
                    Some(before) => (whole.since(before), told.at_unix_ns),
                    None => (whole.clone(), series.since_unix_ns),
                };
                if is_delta {
                    histograms.insert(key, whole.clone());
                }
                (since.count() > 0).then(|| point(&since, series.labels.as_deref(), start.min(now), now))
            });
            metric_of(metric, points.collect(), is_delta)
        });
        let metrics = metrics.filter(|metric| metric.data.is_some()).collect();
        *told = Told { at_unix_ns: now, histograms };
        metrics
    }
}

fn metric_of(
    metric: &listener::TimesMetric,
    points: Vec<proto::ExponentialHistogramDataPoint>,
    is_delta: bool,
) -> proto::Metric {
    let temporality = if is_delta {
        proto::AggregationTemporality::Delta
    } else {
        proto::AggregationTemporality::Cumulative
    };
    let data = (!points.is_empty()).then(|| {
        let aggregation_temporality = temporality.into();
        proto::metric::Data::ExponentialHistogram(proto::ExponentialHistogram {
            data_points: points,
            aggregation_temporality,
        })
    });
    proto::Metric {
        name: metric.name.name.to_owned(),
        description: metric.name.brief.to_owned(),
        unit: metric.name.unit.to_owned(),
        metadata: Vec::new(),
        data,
    }
}

fn point(
    histogram: &Histogram,
    labels: Option<&Labels>,
    start: u64,
    now: u64,
) -> proto::ExponentialHistogramDataPoint {
    let Exponential { offset, counts } = histogram.exponential();
    let attributes = with_labels(labels, |labels| {
        labels.iter().map(|(key, value)| (&KeyValue::new(*key, Value::from(*value))).into()).collect()
    });
    proto::ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: histogram.count(),
        sum: Some(histogram.sum()),
        scale: i32::try_from(SCALE).unwrap_or_default(),
        positive: Some(Buckets { offset, bucket_counts: counts.to_vec() }),
        ..proto::ExponentialHistogramDataPoint::default()
    }
}

/// From the SDK to the agent's own exporter.
struct Bridge {
    exporter: Exporter,
    temporality: Temporality,
    /// The one that the agent's events have, which the SDK's own type cannot hold.
    resource: Resource,
    times: Times,
}

impl PushMetricExporter for Bridge {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut request = ExportMetricsServiceRequest::from(metrics);
        for of_resource in &mut request.resource_metrics {
            of_resource.resource = Some(self.resource.clone());
            SCHEMA_URL.clone_into(&mut of_resource.schema_url);
        }
        if let Some(scope) = request.resource_metrics.iter_mut().flat_map(|of| &mut of.scope_metrics).next() {
            scope.metrics.extend(self.times.metrics());
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
