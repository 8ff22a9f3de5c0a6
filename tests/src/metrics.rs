//! Metrics as they arrived over OTLP, flattened for comparison.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::any_value::Value,
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point::Value as Number},
};

use crate::record::{Attributes, flat};

/// One value of one metric.
#[derive(Debug, Clone)]
pub struct Point {
    /// The metric's name.
    pub name: String,
    /// The value's attributes.
    pub attributes: Attributes,
    /// When it began, and when it was read, nanoseconds since the Unix epoch.
    pub times: (u64, u64),
    /// Whether it counts from the export before.
    pub is_delta: bool,
    /// The value of a sum or a gauge, and of a histogram the sum of what was recorded.
    pub value: f64,
    /// How much was recorded in a histogram.
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

    /// Whether it is of a listener on this port.
    #[must_use]
    pub fn is_of_port(&self, port: u16) -> bool {
        self.attributes.get("network.local.port") == Some(&Value::IntValue(i64::from(port)))
    }
}

/// Every value in a request.
///
/// # Panics
/// When a metric is neither a sum, a gauge nor an exponential histogram, or one of these is not valid.
#[must_use]
pub fn points(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let scopes = request.resource_metrics.iter().flat_map(|of| &of.scope_metrics);
    scopes.flat_map(|of| &of.metrics).flat_map(points_of).collect()
}

fn points_of(metric: &Metric) -> Vec<Point> {
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
                        attributes: flat(&point.attributes),
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
            attributes: flat(&point.attributes),
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
