//! The metrics of the agent itself and of listeners ([`listener`]): tables, from which come those of OpenTelemetry ([`otel`]) and
//! of Prometheus ([`prometheus`]). Pure.

pub mod listener;
pub mod otel;
pub mod prometheus;

use acceptd_common::Counter;
use acceptd_otlp::{
    DropReason, LedgerSnapshot,
    names::{
        MetricName, {self},
    },
};

use crate::{
    health::snapshot::{Delivery, Reading},
    listener::histogram::Histogram,
};

/// How values of a metric add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instrument {
    /// A number of things that grows, from the start of the agent.
    Counter,
    /// A time that grows likewise.
    TimeCounter,
    /// Goes up and down; the sum over its attributes, and over agents, means something.
    UpDownCounter,
    /// A time of which the sum means nothing.
    Gauge,
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// A number of things.
    Count(u64),
    /// A time.
    Seconds(f64),
}

/// The value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Number(i64),
    /// A truth value.
    Flag(bool),
}

/// Attributes of a value.
pub type Attributes<'a> = &'a [(&'static str, Label<'a>)];

/// What takes the values of a metric, each with its attributes.
type Observe<'a> = &'a mut dyn FnMut(Amount, Attributes<'_>);

/// A metric, as OpenTelemetry has it.
#[derive(Debug)]
pub struct Metric {
    /// What it is called, and what it says.
    pub name: MetricName,
    /// How its values add up.
    pub instrument: Instrument,
    observe: fn(&Reading, Observe<'_>),
}

impl Metric {
    /// Its values at this moment.
    pub fn values(&self, reading: &Reading, mut each: impl FnMut(Amount, Attributes<'_>)) {
        (self.observe)(reading, &mut each);
    }

    const fn counter(name: MetricName, observe: fn(&Reading, Observe<'_>)) -> Self {
        Self { name, instrument: Instrument::Counter, observe }
    }

    const fn up_down(name: MetricName, observe: fn(&Reading, Observe<'_>)) -> Self {
        Self { name, instrument: Instrument::UpDownCounter, observe }
    }
}

/// Every metric but those of times.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    OWN.iter().chain(&listener::METRICS)
}

/// Every metric of the agent itself.
const OWN: &[Metric] = &[
    Metric::counter(names::METRIC_ACCEPTD_CAPTURE_EVENTS, |reading, observe| {
        for counter in Counter::PARTS_OF_SEEN {
            let count = Amount::Count(reading.stock.kernel.get(counter));
            observe(count, &[("acceptd.capture.outcome", Label::Text(outcome(counter)))]);
        }
    }),
    Metric::counter(names::METRIC_ACCEPTD_CAPTURE_HOOK_MISSED, |reading, observe| {
        if let Some(missed) = reading.stock.hook_missed {
            observe(Amount::Count(missed), &[]);
        }
    }),
    Metric::up_down(names::METRIC_ACCEPTD_CAPTURE_RING_LENGTH, |reading, observe| {
        observe(Amount::Count(reading.stock.ledger().in_ring), &[]);
    }),
    Metric::counter(names::METRIC_ACCEPTD_PIPELINE_EVENTS, |reading, observe| {
        let drain = &reading.stock.drain;
        for (outcome, count) in [
            ("record", drain.records),
            ("thinned", drain.thinned),
            ("too_large", drain.too_large),
            ("bookkeeping", drain.bookkeeping),
            ("malformed", drain.malformed),
        ] {
            observe(Amount::Count(count), &[("acceptd.pipeline.outcome", Label::Text(outcome))]);
        }
    }),
    Metric::counter(names::METRIC_OTEL_SDK_LOG_CREATED, |reading, observe| {
        observe(Amount::Count(reading.stock.drain.records), &[]);
    }),
    Metric::counter(names::METRIC_OTEL_SDK_SPAN_STARTED, |reading, observe| {
        observe(Amount::Count(reading.stock.drain.spans), &[]);
    }),
    Metric::counter(names::METRIC_OTEL_SDK_EXPORTER_SPAN_EXPORTED, |reading, observe| {
        if let Some(ledger) = &reading.traces {
            exported(ledger, &[], observe);
        }
    }),
    Metric::counter(names::METRIC_OTEL_SDK_EXPORTER_LOG_EXPORTED, |reading, observe| {
        each_delivery(reading, |delivery, component| exported(&delivery.ledger, component, observe));
    }),
    Metric::up_down(names::METRIC_OTEL_SDK_EXPORTER_LOG_INFLIGHT, |reading, observe| {
        each_ledger(reading, observe, |ledger| ledger.in_flight);
    }),
    Metric::up_down(names::METRIC_OTEL_SDK_PROCESSOR_LOG_QUEUE_SIZE, |reading, observe| {
        each_ledger(reading, observe, |ledger| ledger.queued);
    }),
    Metric::up_down(names::METRIC_ACCEPTD_SPOOL_RECORDS, |reading, observe| {
        each_ledger(reading, observe, |ledger| ledger.spooled);
    }),
    Metric::counter(names::METRIC_ACCEPTD_SPOOL_RECOVERED, |reading, observe| {
        each_ledger(reading, observe, |ledger| ledger.recovered);
    }),
    Metric::counter(names::METRIC_ACCEPTD_EXPORTER_REQUESTS, |reading, observe| {
        each_delivery(reading, |delivery, component| {
            let ledger = &delivery.ledger;
            for (outcome, count) in
                [("taken", ledger.requests), ("repeated", ledger.retries), ("halved", ledger.splits)]
            {
                let attributes = [component, &[("acceptd.exporter.outcome", Label::Text(outcome))]].concat();
                observe(Amount::Count(count), &attributes);
            }
        });
    }),
    Metric {
        name: names::METRIC_PROCESS_CPU_TIME,
        instrument: Instrument::TimeCounter,
        observe: |reading, observe| {
            let cost = &reading.cost;
            for (mode, time) in [("user", cost.user), ("system", cost.system)] {
                observe(Amount::Seconds(time.as_secs_f64()), &[("cpu.mode", Label::Text(mode))]);
            }
        },
    },
    Metric::up_down(names::METRIC_PROCESS_MEMORY_USAGE, |reading, observe| {
        observe(Amount::Count(reading.cost.resident), &[]);
    }),
];

/// What becomes of an event in the kernel.
fn outcome(counter: Counter) -> &'static str {
    match counter {
        Counter::Submitted => "submitted",
        Counter::OtherFamily => "filtered_family",
        Counter::Filtered => "filtered",
        Counter::SelfAccept => "self",
        Counter::Eagain => "again",
        Counter::Interrupted => "interrupted",
        Counter::FailureOverBudget => "failure_budget",
        Counter::FailureNoListener => "no_listener",
        Counter::LostRing => "lost_ring",
        Counter::SocketsGone => "lost_sockets_gone",
        Counter::Unended => "lost_unended",
        _ => "other",
    }
}

fn each_delivery(reading: &Reading, mut each: impl FnMut(&Delivery, Attributes<'_>)) {
    for delivery in &reading.deliveries {
        let kind = delivery.target.component_type();
        let name = format!("{kind}/{}", delivery.name);
        each(
            delivery,
            &[("otel.component.name", Label::Text(&name)), ("otel.component.type", Label::Text(kind))],
        );
    }
}

/// One count of each destination's ledger.
fn each_ledger(reading: &Reading, observe: Observe<'_>, count: fn(&LedgerSnapshot) -> u64) {
    each_delivery(reading, |delivery, component| observe(Amount::Count(count(&delivery.ledger)), component));
}

fn exported(ledger: &LedgerSnapshot, component: Attributes<'_>, observe: Observe<'_>) {
    observe(Amount::Count(ledger.acknowledged), component);
    let rejected = std::iter::once(("rejected", ledger.rejected));
    let dropped = ledger.dropped.iter().map(|(reason, count)| (DropReason::name(*reason), *count));
    for (reason, count) in rejected.chain(dropped) {
        observe(Amount::Count(count), &[component, &[("error.type", Label::Text(reason))]].concat());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_part_of_what_was_seen_has_an_outcome_of_its_own() {
        let outcomes: BTreeSet<_> = Counter::PARTS_OF_SEEN.into_iter().map(outcome).collect();
        assert_eq!(outcomes.len(), Counter::PARTS_OF_SEEN.len());
        assert!(!outcomes.contains("other"));
    }

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
        let times = listener::TIMES.iter().map(|metric| (metric.name, "histogram"));
        let mut made = BTreeSet::new();
        for (MetricName { name, instrument, .. }, is) in numbers.chain(times) {
            assert_eq!(instrument, is, "{name}");
            made.insert(name);
        }
        assert_eq!(made, names::METRICS.iter().map(|metric| metric.name).collect());
    }
}
