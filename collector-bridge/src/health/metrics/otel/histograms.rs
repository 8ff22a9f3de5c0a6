//! The histograms as OTLP. The SDK cannot make them: it has none that counts in the kernel, or ends with its
//! listener (see [`DurationHistogram`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use acceptd_common::histogram::SCALE;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Metric,
    exponential_histogram_data_point::Buckets, metric::Data,
};
use opentelemetry_sdk::metrics::Temporality;

use super::{cache::SnapshotCache, key_value::key_value};
use crate::{
    clock,
    health::metrics::listener::{HISTOGRAMS, HistogramMetric, with_labels},
    listener::{
        histogram::{DurationHistogram, ExponentialBuckets},
        series::Labels,
    },
};

/// Makes the histograms of each export.
pub(super) struct Histograms {
    cache: Arc<SnapshotCache>,
    temporality: Temporality,
    last: Mutex<LastExport>,
}

/// The values of the last export, from which delta temporality subtracts. Empty under cumulative temporality.
#[derive(Default)]
struct LastExport {
    /// When it was, nanoseconds since the Unix epoch.
    at_unix_ns: u64,
    /// By metric name and series; the series without labels is the one that all listeners beyond the limit
    /// share.
    histograms: HashMap<(&'static str, Option<Arc<Labels>>), DurationHistogram>,
}

impl Histograms {
    pub(super) fn new(cache: Arc<SnapshotCache>, temporality: Temporality) -> Self {
        Self { cache, temporality, last: Mutex::default() }
    }

    /// The histograms of one export. Metrics without a value are absent.
    pub(super) fn export(&self) -> Vec<Metric> {
        let snapshot = self.cache.snapshot();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now_unix_nanos();
        let is_delta = self.temporality != Temporality::Cumulative;
        let mut histograms = HashMap::new();
        let metrics = HISTOGRAMS.iter().map(|metric| {
            let points = snapshot.counters.listeners.iter().filter_map(|series| {
                let total = (metric.histogram)(series);
                let key = (metric.name.name, series.labels.clone());
                let before = last.histograms.get(&key).filter(|_| is_delta);
                let (new, start) = match before {
                    Some(before) => (total.delta_since(before), last.at_unix_ns),
                    None => (total.clone(), series.since_unix_ns),
                };
                if is_delta {
                    histograms.insert(key, total.clone());
                }
                (new.count() > 0).then(|| point(&new, series.labels.as_deref(), start.min(now), now))
            });
            otlp_metric(metric, points.collect(), is_delta)
        });
        let metrics = metrics.filter(|metric| metric.data.is_some()).collect();
        *last = LastExport { at_unix_ns: now, histograms };
        metrics
    }
}

fn otlp_metric(
    metric: &HistogramMetric,
    data_points: Vec<ExponentialHistogramDataPoint>,
    is_delta: bool,
) -> Metric {
    let temporality =
        if is_delta { AggregationTemporality::Delta } else { AggregationTemporality::Cumulative };
    let data = (!data_points.is_empty()).then(|| {
        let aggregation_temporality = temporality.into();
        Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality })
    });
    Metric {
        name: metric.name.name.to_owned(),
        description: metric.name.brief.to_owned(),
        unit: metric.name.unit.to_owned(),
        metadata: Vec::new(),
        data,
    }
}

fn point(
    histogram: &DurationHistogram,
    labels: Option<&Labels>,
    start: u64,
    now: u64,
) -> ExponentialHistogramDataPoint {
    let ExponentialBuckets { offset, counts } = histogram.otlp_buckets();
    let attributes =
        with_labels(labels, |labels| labels.iter().map(|label| (&key_value(label)).into()).collect());
    ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: histogram.count(),
        sum: Some(histogram.sum()),
        scale: i32::try_from(SCALE).unwrap_or_default(),
        positive: Some(Buckets { offset, bucket_counts: counts.to_vec() }),
        ..ExponentialHistogramDataPoint::default()
    }
}
