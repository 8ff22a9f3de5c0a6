//! The metrics of listeners and their connections.

use std::time::Duration;

use acceptd_otlp::names::{self, MetricName};

use super::instrument::{Amount, Instrument, Label, Metric, MetricAttributes, Observe};
use crate::{
    health::snapshot::HealthSnapshot,
    listener::{
        histogram::DurationHistogram,
        series::{Labels, Series},
    },
};

/// A metric of durations.
#[derive(Debug)]
pub(super) struct HistogramMetric {
    /// Its name, unit and description.
    pub(super) name: MetricName,
    /// Its values in one series.
    pub(super) histogram: fn(&Series) -> &DurationHistogram,
}

/// Every metric of durations. The unit is the second.
pub(super) const HISTOGRAMS: [HistogramMetric; 2] = [
    HistogramMetric {
        name: names::METRIC_ACCEPTD_LISTENER_QUEUE_DURATION,
        histogram: |series| &series.queue,
    },
    HistogramMetric {
        name: names::METRIC_ACCEPTD_CONNECTION_DURATION,
        histogram: |series| &series.durations,
    },
];

/// Every other metric of listeners.
pub(super) const METRICS: [Metric; 11] = [
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_ACCEPTS,
        instrument: Instrument::Counter,
        observe: |snapshot, observe| {
            each(snapshot, observe, |series, labels, observe| {
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
        observe: |snapshot, observe| each_count(snapshot, observe, |series| Some(series.length)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_QUEUE_LIMIT,
        instrument: Instrument::UpDownCounter,
        observe: |snapshot, observe| each_count(snapshot, observe, |series| Some(series.limit)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_QUEUE_OLDEST_WAIT,
        instrument: Instrument::Gauge,
        observe: |snapshot, observe| {
            each(snapshot, observe, |series, labels, observe| {
                let waited = Duration::from_nanos(series.oldest_wait_ns);
                observe(Amount::Seconds(waited.as_secs_f64()), labels);
            });
        },
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_OVERFLOWS,
        instrument: Instrument::Counter,
        observe: |snapshot, observe| each_count(snapshot, observe, |series| Some(series.overflows)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_BLOCKED_CONNECTS,
        instrument: Instrument::Counter,
        observe: |snapshot, observe| each_count(snapshot, observe, |series| Some(series.blocked_connects)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_BLOCKED_CONNECT_TIME,
        instrument: Instrument::TimeCounter,
        observe: |snapshot, observe| {
            each(snapshot, observe, |series, labels, observe| {
                let waited = Duration::from_nanos(series.blocked_connect_ns);
                observe(Amount::Seconds(waited.as_secs_f64()), labels);
            });
        },
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_DROPPED_PACKETS,
        instrument: Instrument::Counter,
        observe: |snapshot, observe| each_count(snapshot, observe, |series| Some(series.dropped_packets)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_ABANDONED_CONNECTIONS,
        instrument: Instrument::Counter,
        observe: |snapshot, observe| each_count(snapshot, observe, |series| Some(series.abandoned)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_LISTENER_COUNT,
        instrument: Instrument::UpDownCounter,
        observe: |snapshot, observe| each_count(snapshot, observe, |series| Some(series.listeners)),
    },
    Metric {
        name: names::METRIC_ACCEPTD_CONNECTION_COUNT,
        instrument: Instrument::UpDownCounter,
        observe: |snapshot, observe| each_count(snapshot, observe, |series| series.open),
    },
];

/// Calls `observe_one` for every series.
fn each(
    snapshot: &HealthSnapshot,
    observe: Observe<'_>,
    observe_one: fn(&Series, MetricAttributes<'_>, Observe<'_>),
) {
    for series in snapshot.counters.listeners.iter() {
        with_labels(series.labels.as_deref(), |labels| observe_one(series, labels, observe));
    }
}

/// Observes one count of every series; a series for which it is `None` has no value.
fn each_count(snapshot: &HealthSnapshot, observe: Observe<'_>, count: fn(&Series) -> Option<u64>) {
    for series in snapshot.counters.listeners.iter() {
        if let Some(count) = count(series) {
            with_labels(series.labels.as_deref(), |labels| observe(Amount::Count(count), labels));
        }
    }
}

/// Calls `with` with the attributes of a series. The series that all listeners beyond the limit share has
/// `None` for labels, and the attribute that OpenTelemetry defines for an overflow.
pub(super) fn with_labels<R>(labels: Option<&Labels>, with: impl FnOnce(MetricAttributes<'_>) -> R) -> R {
    let Some(labels) = labels else {
        return with(&[("otel.metric.overflow", Label::Flag(true))]);
    };
    let Labels { transport, network_type, address, port, service, executable, netns, container, pod } =
        labels;
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
    attributes.extend(netns.map(|inode| (names::ACCEPTD_NETNS_INODE, Label::Number(i64::from(inode)))));
    attributes.extend(container.as_deref().map(|id| (names::CONTAINER_ID, Label::Text(id))));
    attributes.extend(pod.as_deref().map(|uid| (names::K8S_POD_UID, Label::Text(uid))));
    with(&attributes)
}
