//! Metric data points as they arrived over OTLP, flattened for comparison.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::any_value::Value,
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point::Value as Number},
};

use crate::record::{Attributes, flatten};

/// One data point.
#[derive(Debug, Clone)]
pub struct Point {
    /// The metric's name.
    pub name: String,
    /// The point's attributes.
    pub attributes: Attributes,
    /// Start time and time, in nanoseconds since the Unix epoch.
    pub times: (u64, u64),
    /// Whether its temporality is delta.
    pub is_delta: bool,
    /// The value of a sum or gauge; for a histogram, the sum of its recorded values.
    pub value: f64,
    /// The number of recorded values, for histograms only.
    pub count: Option<u64>,
}

impl Point {
    /// A text attribute.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.attributes.get(key) {
            Some(Value::StringValue(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether `network.local.port` is this port.
    #[must_use]
    pub fn is_on_port(&self, port: u16) -> bool {
        self.attributes.get("network.local.port") == Some(&Value::IntValue(i64::from(port)))
    }
}

/// All data points of a request.
///
/// # Panics
/// If a metric is neither a sum, a gauge nor an exponential histogram, or a histogram's buckets do not add
/// up.
#[must_use]
pub fn points(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let scopes = request.resource_metrics.iter().flat_map(|group| &group.scope_metrics);
    scopes.flat_map(|group| &group.metrics).flat_map(metric_points).collect()
}

fn metric_points(metric: &Metric) -> Vec<Point> {
    let name = &metric.name;
    let numbers = match &metric.data {
        Some(Data::Sum(sum)) => (&sum.data_points, sum.aggregation_temporality),
        Some(Data::Gauge(gauge)) => (&gauge.data_points, 0),
        Some(Data::ExponentialHistogram(histogram)) => {
            let is_delta = histogram.aggregation_temporality == AggregationTemporality::Delta as i32;
            return histogram
                .data_points
                .iter()
                .map(|point| {
                    let buckets = point.positive.as_ref().map(|positive| positive.bucket_counts.iter().sum());
                    assert_eq!(buckets.unwrap_or(0) + point.zero_count, point.count, "{point:?}");
                    Point {
                        name: name.clone(),
                        attributes: flatten(&point.attributes),
                        times: (point.start_time_unix_nano, point.time_unix_nano),
                        is_delta,
                        value: point.sum.expect("a sum"),
                        count: Some(point.count),
                    }
                })
                .collect();
        }
        other => panic!("{name}: {other:?}"),
    };
    let (numbers, temporality) = numbers;
    numbers
        .iter()
        .map(|point| Point {
            name: name.clone(),
            attributes: flatten(&point.attributes),
            times: (point.start_time_unix_nano, point.time_unix_nano),
            is_delta: temporality == AggregationTemporality::Delta as i32,
            value: match point.value {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                Some(Number::AsInt(value)) => value as f64,
                Some(Number::AsDouble(value)) => value,
                None => panic!("{name} has no value"),
            },
            count: None,
        })
        .collect()
}
