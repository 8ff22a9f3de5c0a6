//! The metrics as `OpenMetrics` text.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{Amount, Attributes, Instrument, METRICS, Metric};
use crate::vitals::Reading;

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
        for metric in METRICS {
            let kind = match metric.instrument {
                Instrument::Counter | Instrument::TimeCounter => MetricType::Counter,
                Instrument::UpDownCounter => MetricType::Gauge,
            };
            let name = metric.name.replace('.', "_");
            let unit = unit(metric);
            let mut family = encoder.encode_descriptor(&name, metric.brief, unit.as_ref(), kind)?;
            let mut result = Ok(());
            metric.values(&self.0, |amount, attributes| {
                result = result.and_then(|()| value(&mut family, metric.instrument, amount, attributes));
            });
            result?;
        }
        Ok(())
    }
}

/// What stands in the name; a thing that is counted, in braces, does not.
fn unit(metric: &Metric) -> Option<Unit> {
    match metric.unit {
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
    let labels: Vec<(String, &str)> =
        attributes.iter().map(|(name, value)| (name.replace('.', "_"), *value)).collect();
    if labels.is_empty() {
        return number(family, instrument, amount);
    }
    number(&mut family.encode_family(&labels)?, instrument, amount)
}

fn number(one: &mut MetricEncoder<'_>, instrument: Instrument, amount: Amount) -> fmt::Result {
    let is_gauge = instrument == Instrument::UpDownCounter;
    match amount {
        Amount::Count(count) if is_gauge => one.encode_gauge(&i64::try_from(count).unwrap_or(i64::MAX)),
        Amount::Count(count) => one.encode_counter::<NoLabelSet, _, u64>(&count, None),
        Amount::Seconds(seconds) if is_gauge => one.encode_gauge(&seconds),
        Amount::Seconds(seconds) => one.encode_counter::<NoLabelSet, _, u64>(&seconds, None),
    }
}
