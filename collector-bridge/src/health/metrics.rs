//! The metrics of the agent itself and of listeners: two tables, and the two exporters that read them.
//!
//! `instrument` says what a metric is, `agent` and `listener` are the tables, `otel` and `prometheus` export
//! both.

pub(crate) mod otel;
pub(crate) mod prometheus;

mod agent;
mod instrument;
mod listener;

use instrument::Metric;

/// Every metric but the histograms, which are in [`listener::HISTOGRAMS`].
fn all() -> impl Iterator<Item = &'static Metric> {
    agent::METRICS.iter().chain(&listener::METRICS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use acceptd_otlp::names::{self, MetricName};

    use super::{instrument::Instrument, *};

    #[test]
    fn names_are_unique_and_no_name_is_a_prefix_of_another() {
        for (index, MetricName { name, .. }) in names::METRICS.iter().enumerate() {
            for MetricName { name: other, .. } in &names::METRICS[index + 1..] {
                assert_ne!(name, other);
                assert!(!other.starts_with(&format!("{name}.")), "{other}");
                assert!(!name.starts_with(&format!("{other}.")), "{name}");
            }
        }
    }

    #[test]
    fn every_metric_of_the_registry_is_made_with_its_instrument() {
        let instrument = |metric: &Metric| match metric.instrument {
            Instrument::Counter | Instrument::TimeCounter => "counter",
            Instrument::UpDownCounter => "updowncounter",
            Instrument::Gauge => "gauge",
        };
        let numbers = all().map(|metric| (metric.name, instrument(metric)));
        let histograms = listener::HISTOGRAMS.iter().map(|metric| (metric.name, "histogram"));
        let mut made = BTreeSet::new();
        for (MetricName { name, instrument, .. }, is) in numbers.chain(histograms) {
            assert_eq!(instrument, is, "{name}");
            made.insert(name);
        }
        assert_eq!(made, names::METRICS.iter().map(|metric| metric.name).collect());
    }
}
