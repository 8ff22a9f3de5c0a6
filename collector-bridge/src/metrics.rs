//! The metrics of the agent itself and of listeners ([`listener`]): tables, from which come those of OpenTelemetry ([`otel`]) and
//! of Prometheus ([`prometheus`]). Pure.

pub mod histogram;
pub mod listener;
pub mod otel;
pub mod prometheus;

use acceptd_common::Counter;
use acceptd_otlp::{DropReason, LedgerSnapshot};

use crate::vitals::{Delivery, Reading};
use histogram::Histogram;

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
    /// Its name. `otel.*` and `process.*` are the semantic conventions'.
    pub name: &'static str,
    /// Its unit, in UCUM.
    pub unit: &'static str,
    /// What it says.
    pub brief: &'static str,
    /// How its values add up.
    pub instrument: Instrument,
    observe: fn(&Reading, Observe<'_>),
}

impl Metric {
    /// Its values at this moment.
    pub fn values(&self, reading: &Reading, mut each: impl FnMut(Amount, Attributes<'_>)) {
        (self.observe)(reading, &mut each);
    }

    const fn counter(
        name: &'static str,
        unit: &'static str,
        brief: &'static str,
        observe: fn(&Reading, Observe<'_>),
    ) -> Self {
        Self { name, unit, brief, instrument: Instrument::Counter, observe }
    }

    const fn up_down(
        name: &'static str,
        unit: &'static str,
        brief: &'static str,
        observe: fn(&Reading, Observe<'_>),
    ) -> Self {
        Self { name, unit, brief, instrument: Instrument::UpDownCounter, observe }
    }
}

/// Every metric but those of times.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    OWN.iter().chain(&listener::METRICS)
}

/// Every metric of the agent itself.
const OWN: &[Metric] = &[
    Metric::counter(
        "acceptd.capture.events",
        "{event}",
        "What the programs in the kernel saw, by what they made of it. Together it is everything that they saw.",
        |reading, observe| {
            for counter in Counter::PARTS_OF_SEEN {
                let count = Amount::Count(reading.stock.kernel.get(counter));
                observe(count, &[("acceptd.capture.outcome", Label::Text(outcome(counter)))]);
            }
        },
    ),
    Metric::counter(
        "acceptd.capture.hook_missed",
        "{run}",
        "Runs of a program that the kernel left out, each perhaps with an event.",
        |reading, observe| {
            if let Some(missed) = reading.stock.hook_missed {
                observe(Amount::Count(missed), &[]);
            }
        },
    ),
    Metric::up_down(
        "acceptd.capture.ring.length",
        "{event}",
        "Events in the ring buffer between kernel and agent.",
        |reading, observe| observe(Amount::Count(reading.stock.ledger().in_ring), &[]),
    ),
    Metric::counter(
        "acceptd.pipeline.events",
        "{event}",
        "What the agent read from the ring buffer or found out by itself, by what became of it.",
        |reading, observe| {
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
        },
    ),
    Metric::counter("otel.sdk.log.created", "{log_record}", "Log records made.", |reading, observe| {
        observe(Amount::Count(reading.stock.drain.records), &[]);
    }),
    Metric::counter("otel.sdk.span.started", "{span}", "Spans made.", |reading, observe| {
        observe(Amount::Count(reading.stock.drain.spans), &[]);
    }),
    Metric::counter(
        "otel.sdk.exporter.span.exported",
        "{span}",
        "Spans that the destination has, or that it did not get for the reason in error.type.",
        |reading, observe| {
            if let Some(ledger) = &reading.traces {
                exported(ledger, &[], observe);
            }
        },
    ),
    Metric::counter(
        "otel.sdk.exporter.log.exported",
        "{log_record}",
        "Log records that a destination has, or that it did not get for the reason in error.type.",
        |reading, observe| {
            each_delivery(reading, |delivery, component| exported(&delivery.ledger, component, observe));
        },
    ),
    Metric::up_down(
        "otel.sdk.exporter.log.inflight",
        "{log_record}",
        "Log records on their way to a destination.",
        |reading, observe| each_ledger(reading, observe, |ledger| ledger.in_flight),
    ),
    Metric::up_down(
        "otel.sdk.processor.log.queue.size",
        "{log_record}",
        "Log records that wait in memory for a destination.",
        |reading, observe| each_ledger(reading, observe, |ledger| ledger.queued),
    ),
    Metric::up_down(
        "acceptd.spool.records",
        "{log_record}",
        "Log records that wait in the spool for a destination.",
        |reading, observe| each_ledger(reading, observe, |ledger| ledger.spooled),
    ),
    Metric::counter(
        "acceptd.spool.recovered",
        "{log_record}",
        "Log records of an earlier run that were found in the spool.",
        |reading, observe| each_ledger(reading, observe, |ledger| ledger.recovered),
    ),
    Metric::counter(
        "acceptd.exporter.requests",
        "{request}",
        "Requests to a destination, by what came of them.",
        |reading, observe| {
            each_delivery(reading, |delivery, component| {
                let ledger = &delivery.ledger;
                for (outcome, count) in
                    [("taken", ledger.requests), ("repeated", ledger.retries), ("halved", ledger.splits)]
                {
                    let attributes =
                        [component, &[("acceptd.exporter.outcome", Label::Text(outcome))]].concat();
                    observe(Amount::Count(count), &attributes);
                }
            });
        },
    ),
    Metric {
        name: "process.cpu.time",
        unit: "s",
        brief: "CPU time of the agent, without that of its programs in the kernel.",
        instrument: Instrument::TimeCounter,
        observe: |reading, observe| {
            let cost = &reading.cost;
            for (mode, time) in [("user", cost.user), ("system", cost.system)] {
                observe(Amount::Seconds(time.as_secs_f64()), &[("cpu.mode", Label::Text(mode))]);
            }
        },
    },
    Metric::up_down("process.memory.usage", "By", "Resident memory of the agent.", |reading, observe| {
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
        let names: Vec<&str> =
            all().map(|metric| metric.name).chain(listener::TIMES.iter().map(|metric| metric.name)).collect();
        for (index, name) in names.iter().enumerate() {
            for other in &names[index + 1..] {
                assert_ne!(name, other);
                assert!(!other.starts_with(&format!("{name}.")), "{other}");
                assert!(!name.starts_with(&format!("{other}.")), "{name}");
            }
        }
    }
}
