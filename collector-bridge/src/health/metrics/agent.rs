//! The metrics of the agent itself.

use acceptd_common::Counter;
use acceptd_otlp::{DropReason, LedgerSnapshot, names};

use super::instrument::{Amount, Instrument, Label, Metric, MetricAttributes, Observe};
use crate::{bpf::skipped::SkippedRuns, health::snapshot::HealthSnapshot, pipeline::NamedLedger};

/// Every metric of the agent itself.
pub(super) const METRICS: &[Metric] = &[
    Metric::counter(names::METRIC_ACCEPTD_CAPTURE_EVENTS, |snapshot, observe| {
        for counter in Counter::OUTCOMES {
            let count = Amount::Count(snapshot.counters.kernel.get(counter));
            observe(count, &[("acceptd.capture.outcome", Label::Text(outcome(counter)))]);
        }
    }),
    Metric::counter(names::METRIC_ACCEPTD_CAPTURE_HOOK_MISSED, |snapshot, observe| {
        for (program, missed) in snapshot.counters.skipped.iter().flat_map(SkippedRuns::by_program) {
            observe(Amount::Count(missed), &[("acceptd.capture.hook", Label::Text(program))]);
        }
    }),
    Metric::up_down(names::METRIC_ACCEPTD_CAPTURE_RING_LENGTH, |snapshot, observe| {
        observe(Amount::Count(snapshot.counters.ledger().in_ring), &[]);
    }),
    Metric::counter(names::METRIC_ACCEPTD_PIPELINE_EVENTS, |snapshot, observe| {
        let drain = &snapshot.counters.drain;
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
    Metric::counter(names::METRIC_OTEL_SDK_LOG_CREATED, |snapshot, observe| {
        observe(Amount::Count(snapshot.counters.drain.records), &[]);
    }),
    Metric::counter(names::METRIC_OTEL_SDK_SPAN_STARTED, |snapshot, observe| {
        observe(Amount::Count(snapshot.counters.drain.spans), &[]);
    }),
    Metric::counter(names::METRIC_OTEL_SDK_EXPORTER_SPAN_EXPORTED, |snapshot, observe| {
        if let Some(ledger) = &snapshot.traces {
            exported(ledger, &[], observe);
        }
    }),
    Metric::counter(names::METRIC_OTEL_SDK_EXPORTER_LOG_EXPORTED, |snapshot, observe| {
        each_destination(snapshot, |destination, component| {
            exported(&destination.ledger, component, observe);
        });
    }),
    Metric::up_down(names::METRIC_OTEL_SDK_EXPORTER_LOG_INFLIGHT, |snapshot, observe| {
        each_ledger(snapshot, observe, |ledger| ledger.in_flight);
    }),
    Metric::up_down(names::METRIC_OTEL_SDK_PROCESSOR_LOG_QUEUE_SIZE, |snapshot, observe| {
        each_ledger(snapshot, observe, |ledger| ledger.queued);
    }),
    Metric::up_down(names::METRIC_ACCEPTD_SPOOL_RECORDS, |snapshot, observe| {
        each_ledger(snapshot, observe, |ledger| ledger.spooled);
    }),
    Metric::counter(names::METRIC_ACCEPTD_SPOOL_RECOVERED, |snapshot, observe| {
        each_ledger(snapshot, observe, |ledger| ledger.recovered);
    }),
    Metric::counter(names::METRIC_ACCEPTD_EXPORTER_REQUESTS, |snapshot, observe| {
        each_destination(snapshot, |destination, component| {
            let ledger = &destination.ledger;
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
        observe: |snapshot, observe| {
            let cost = &snapshot.cost;
            for (mode, time) in [("user", cost.user), ("system", cost.system)] {
                observe(Amount::Seconds(time.as_secs_f64()), &[("cpu.mode", Label::Text(mode))]);
            }
        },
    },
    Metric::up_down(names::METRIC_PROCESS_MEMORY_USAGE, |snapshot, observe| {
        observe(Amount::Count(snapshot.cost.resident), &[]);
    }),
];

/// The value of `acceptd.capture.outcome` for a counter of the programs.
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
        Counter::MaybeRefused => "seccomp",
        Counter::LostRing => "lost_ring",
        Counter::SocketsGone => "lost_sockets_gone",
        Counter::MissedExit => "lost_unended",
        _ => "other",
    }
}

/// Calls `each` for every destination of log records, with the attributes that name its exporter.
fn each_destination(snapshot: &HealthSnapshot, mut each: impl FnMut(&NamedLedger, MetricAttributes<'_>)) {
    for destination in &snapshot.destinations {
        let kind = destination.target.component_type();
        let name = format!("{kind}/{}", destination.name);
        each(
            destination,
            &[("otel.component.name", Label::Text(&name)), ("otel.component.type", Label::Text(kind))],
        );
    }
}

/// Observes one count of each destination's ledger.
fn each_ledger(snapshot: &HealthSnapshot, observe: Observe<'_>, count: fn(&LedgerSnapshot) -> u64) {
    each_destination(snapshot, |destination, component| {
        observe(Amount::Count(count(&destination.ledger)), component);
    });
}

/// Observes what an exporter has delivered, rejected and dropped; only the failures have an `error.type`.
fn exported(ledger: &LedgerSnapshot, component: MetricAttributes<'_>, observe: Observe<'_>) {
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
    fn every_outcome_of_an_event_has_a_name_of_its_own() {
        let outcomes: BTreeSet<_> = Counter::OUTCOMES.into_iter().map(outcome).collect();
        assert_eq!(outcomes.len(), Counter::OUTCOMES.len());
        assert!(!outcomes.contains("other"));
    }
}
