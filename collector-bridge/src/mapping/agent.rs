//! Makes the agent's records about itself: started, stopped, events lost.

use std::time::Duration;

use acceptd_otlp::{
    Attribute, Event, RecordUid, Value, names,
    severity::{ERROR, INFO},
};

use super::RecordContext;
use crate::{accounting::gaps::Gap, bpf::CaptureMode};

/// The record of the agent's start. `missing` names the programs that this kernel refused.
#[must_use]
pub(crate) fn started_event<'a>(
    capture: &CaptureMode,
    missing: &'a [&'static str],
    uid: RecordUid,
    context: RecordContext<'_>,
) -> Event<'a> {
    let tier = u64::from(capture.tier.number());
    let mut body = vec![
        Value::Text(concat!("acceptd ", env!("CARGO_PKG_VERSION"), " captures accepts in tier ")),
        Value::Int(tier),
    ];
    if !missing.is_empty() {
        body.extend([Value::Text(", without "), Value::Texts(missing)]);
    }
    let mut event = event(names::EVENT_ACCEPTD_AGENT_STARTED, INFO, body, uid, context);
    event.add(Attribute::AgentTier, Some(Value::Int(tier)));
    event.add(Attribute::Missing, (!missing.is_empty()).then_some(Value::Texts(missing)));
    event
}

/// The record of the agent's stop. `after` is how long it ran. It captured everything until
/// `captured_until_unix_ns`, which is the time of the event.
#[must_use]
pub(crate) fn stopped_event(
    after: Duration,
    captured_until_unix_ns: u64,
    uid: RecordUid,
    context: RecordContext<'_>,
) -> Event<'static> {
    let body =
        vec![Value::Text("acceptd was stopped after "), Value::Int(after.as_secs()), Value::Text(" s")];
    let event = event(names::EVENT_ACCEPTD_AGENT_STOPPED, INFO, body, uid, context);
    Event { time_unix_nano: captured_until_unix_ns, ..event }
}

/// The record of lost events.
#[must_use]
pub(crate) fn lost_event<'a>(gap: &'a Gap, uid: RecordUid, context: RecordContext<'_>) -> Event<'a> {
    let nanos = u64::try_from(gap.interval.as_nanos()).unwrap_or(u64::MAX);
    let mut body = match gap.count {
        Some(count) => vec![Value::Text("acceptd lost "), Value::Int(count), Value::Text(" events in ")],
        None => vec![Value::Text("acceptd lost an unknown number of events in ")],
    };
    body.extend([Value::Milliseconds(nanos), Value::Text(" ms: "), Value::Text(gap.reason)]);
    let destination = gap.destination.as_ref().map(|name| Value::Raw(name.as_bytes()));
    if let Some(name) = &destination {
        body.extend([Value::Text(" at the destination "), name.clone()]);
    }
    let mut event = event(names::EVENT_ACCEPTD_EVENTS_LOST, ERROR, body, uid, context);
    event.add(Attribute::LossReason, Some(Value::Text(gap.reason)));
    event.add(Attribute::LossCount, gap.count.map(Value::Int));
    event.add(Attribute::Destination, destination);
    event.add(Attribute::Interval, Some(Value::Int(nanos)));
    event
}

/// The parts that all of the agent's own records share. Their time is the time of observation.
fn event<'a>(
    name: &'static str,
    severity: u8,
    body: Vec<Value<'a>>,
    uid: RecordUid,
    context: RecordContext<'_>,
) -> Event<'a> {
    Event {
        name,
        time_unix_nano: context.observed_unix_ns,
        observed_time_unix_nano: context.observed_unix_ns,
        uid,
        severity,
        body,
        attributes: Vec::new(),
    }
}
