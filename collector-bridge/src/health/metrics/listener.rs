//! The metrics of listeners and their connections.

use acceptd_otlp::names::{
    MetricName, {self},
};

use super::{Amount, Attributes, Histogram, Instrument, Label, Metric, Observe};
use crate::{
    health::snapshot::Reading,
    listener::series::{Labels, Series},
};

/// A metric of times.
#[derive(Debug)]
pub struct TimesMetric {
    /// What it is called, and what it says.
    pub name: MetricName,
    /// Its values, of one series.
    pub of: fn(&Series) -> &Histogram,
}

/// Every metric of times. The unit is the second.
pub const TIMES: [TimesMetric; 2] = [
    TimesMetric { name: names::METRIC_ACCEPTD_LISTENER_QUEUE_DURATION, of: |series| &series.queue },
    TimesMetric { name: names::METRIC_ACCEPTD_CONNECTION_DURATION, of: |series| &series.lives },
];

/// Every other metric.
pub const METRICS: [Metric; 7] = [
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_ACCEPTS,
        instrument: Instrument::Counter,
        observe: |reading, observe| {
            each(reading, observe, |series, labels, observe| {
                let outcome = |outcome| ("acceptd.accept.outcome", Label::Text(outcome));
                observe(Amount::Count(series.accepted), &[labels, &[outcome("accepted")]].concat());
                for (error, count) in &series.failed {
                    let error = ("error.type", Label::Text(error));
                    observe(Amount::Count(*count), &[labels, &[outcome("failed"), error]].concat());
                }
            });
        },
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_QUEUE_LENGTH,
        instrument: Instrument::UpDownCounter,
        observe: |reading, observe| each_count(reading, observe, |series| Some(series.length)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_QUEUE_LIMIT,
        instrument: Instrument::UpDownCounter,
        observe: |reading, observe| each_count(reading, observe, |series| Some(series.limit)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_QUEUE_OLDEST_WAIT,
        instrument: Instrument::Gauge,
        observe: |reading, observe| {
            each(reading, observe, |series, labels, observe| {
                let waited = std::time::Duration::from_nanos(series.oldest_wait_ns);
                observe(Amount::Seconds(waited.as_secs_f64()), labels);
            });
        },
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_OVERFLOWS,
        instrument: Instrument::Counter,
        observe: |reading, observe| each_count(reading, observe, |series| Some(series.overflows)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_ABANDONED_CONNECTIONS,
        instrument: Instrument::Counter,
        observe: |reading, observe| each_count(reading, observe, |series| Some(series.abandoned)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_CONNECTION_COUNT,
        instrument: Instrument::UpDownCounter,
        observe: |reading, observe| each_count(reading, observe, |series| series.open),
    },
];

fn each(reading: &Reading, observe: Observe<'_>, of_one: fn(&Series, Attributes<'_>, Observe<'_>)) {
    for series in reading.stock.listeners.iter() {
        with_labels(series.labels.as_deref(), |labels| of_one(series, labels, observe));
    }
}

fn each_count(reading: &Reading, observe: Observe<'_>, count: fn(&Series) -> Option<u64>) {
    for series in reading.stock.listeners.iter() {
        if let Some(count) = count(series) {
            with_labels(series.labels.as_deref(), |labels| observe(Amount::Count(count), labels));
        }
    }
}

/// A series' attributes; of the shared one what OpenTelemetry has for those that are too many.
pub fn with_labels<R>(labels: Option<&Labels>, to: impl FnOnce(Attributes<'_>) -> R) -> R {
    let Some(Labels { transport, network_type, address, port, service, executable }) = labels else {
        return to(&[("otel.metric.overflow", Label::Flag(true))]);
    };
    let mut attributes = vec![
        ("network.transport", Label::Text(transport)),
        ("acceptd.listener.service", Label::Text(service)),
    ];
    attributes.extend(network_type.map(|kind| ("network.type", Label::Text(kind))));
    attributes.extend(address.as_deref().map(|address| ("network.local.address", Label::Text(address))));
    attributes.extend(port.map(|port| ("network.local.port", Label::Number(i64::from(port)))));
    if !executable.is_empty() {
        attributes.push(("process.executable.name", Label::Text(executable)));
    }
    to(&attributes)
}
