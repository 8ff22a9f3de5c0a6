//! The metrics as `OpenMetrics` text.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    Amount, Attributes, Instrument, Label, Metric, all,
    listener::{TIMES, TimesMetric, with_labels},
};
use crate::health::snapshot::Reading;

/// All metrics of this moment. Names and units are changed by the rules of OpenTelemetry's compatibility specification.
#[must_use]
pub fn text(reading: Reading) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(reading)));
    let mut text = String::new();
    // Writing to a string cannot fail.
    _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Scrape(Reading);

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
        TIMES.iter().try_for_each(|metric| times(&mut encoder, metric, &self.0))
    }
}

fn times(encoder: &mut DescriptorEncoder<'_>, metric: &TimesMetric, reading: &Reading) -> fmt::Result {
    let name = metric.name.name.replace('.', "_");
    let mut family =
        encoder.encode_descriptor(&name, metric.name.brief, Some(&Unit::Seconds), MetricType::Histogram)?;
    for series in reading.stock.listeners.iter() {
        let histogram = (metric.of)(series);
        let buckets: Vec<(f64, u64)> = histogram.classic().collect();
        let labels = with_labels(series.labels.as_deref(), labels_of);
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            histogram.sum(),
            histogram.count(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn labels_of(attributes: Attributes<'_>) -> Vec<(String, String)> {
    let text = |label: &Label<'_>| match label {
        Label::Text(text) => (*text).to_owned(),
        Label::Number(number) => number.to_string(),
        Label::Flag(flag) => flag.to_string(),
    };
    attributes.iter().map(|(name, value)| (name.replace('.', "_"), text(value))).collect()
}

/// What stands in the name; a thing that is counted, in braces, does not.
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
    attributes: Attributes<'_>,
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
