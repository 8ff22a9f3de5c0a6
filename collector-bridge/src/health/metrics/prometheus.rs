//! Exports the metrics as `OpenMetrics` text, for `/metrics`.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    all,
    instrument::{Amount, Instrument, Label, Metric, MetricAttributes},
    listener::{HISTOGRAMS, HistogramMetric, with_labels},
};
use crate::health::snapshot::HealthSnapshot;

/// All metrics of a snapshot. Names and units follow OpenTelemetry's specification of compatibility with
/// Prometheus.
#[must_use]
pub(crate) fn text(snapshot: HealthSnapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(snapshot)));
    let mut text = String::new();
    // Writing to a string cannot fail.
    _ = encode(&mut text, &registry);
    text
}

/// One scrape: the collector lives as long as the encoding of one snapshot.
#[derive(Debug)]
struct Scrape(HealthSnapshot);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in all() {
            let kind = match metric.instrument {
                Instrument::Counter | Instrument::TimeCounter => MetricType::Counter,
                Instrument::UpDownCounter | Instrument::Gauge => MetricType::Gauge,
            };
            let name = metric.name.name.replace('.', "_");
            let unit = unit(metric);
            let mut family = encoder.encode_descriptor(&name, metric.name.brief, unit.as_ref(), kind)?;
            let mut result = Ok(());
            metric.values(&self.0, |amount, attributes| {
                result = result.and_then(|()| value(&mut family, metric.instrument, amount, attributes));
            });
            result?;
        }
        HISTOGRAMS.iter().try_for_each(|metric| histogram(&mut encoder, metric, &self.0))
    }
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &HistogramMetric,
    snapshot: &HealthSnapshot,
) -> fmt::Result {
    let name = metric.name.name.replace('.', "_");
    let mut family =
        encoder.encode_descriptor(&name, metric.name.brief, Some(&Unit::Seconds), MetricType::Histogram)?;
    for series in snapshot.counters.listeners.iter() {
        let durations = (metric.histogram)(series);
        let buckets: Vec<(f64, u64)> = durations.prometheus_buckets().collect();
        let labels = with_labels(series.labels.as_deref(), labels_of);
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            durations.sum(),
            durations.count(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn labels_of(attributes: MetricAttributes<'_>) -> Vec<(String, String)> {
    let text = |label: &Label<'_>| match label {
        Label::Text(text) => (*text).to_owned(),
        Label::Number(number) => number.to_string(),
        Label::Flag(flag) => flag.to_string(),
    };
    attributes.iter().map(|(name, value)| (name.replace('.', "_"), text(value))).collect()
}

/// The unit that becomes part of the name. Annotations in braces, such as `{record}`, do not.
fn unit(metric: &Metric) -> Option<Unit> {
    match metric.name.unit {
        "s" => Some(Unit::Seconds),
        "By" => Some(Unit::Bytes),
        _ => None,
    }
}

fn value(
    family: &mut MetricEncoder<'_>,
    instrument: Instrument,
    amount: Amount,
    attributes: MetricAttributes<'_>,
) -> fmt::Result {
    let labels = labels_of(attributes);
    if labels.is_empty() {
        return number(family, instrument, amount);
    }
    number(&mut family.encode_family(&labels)?, instrument, amount)
}

fn number(one: &mut MetricEncoder<'_>, instrument: Instrument, amount: Amount) -> fmt::Result {
    let is_gauge = matches!(instrument, Instrument::UpDownCounter | Instrument::Gauge);
    match amount {
        Amount::Count(count) if is_gauge => one.encode_gauge(&i64::try_from(count).unwrap_or(i64::MAX)),
        Amount::Count(count) => one.encode_counter::<NoLabelSet, _, u64>(&count, None),
        Amount::Seconds(seconds) if is_gauge => one.encode_gauge(&seconds),
        Amount::Seconds(seconds) => one.encode_counter::<NoLabelSet, _, u64>(&seconds, None),
    }
}
