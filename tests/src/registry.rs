//! Checks received telemetry against otel-config/registry, as generated into `acceptd_otlp::names`.
//!
//! [`crate::inbox::Inbox`] checks every request of every scenario. Violations are: an unknown event, span,
//! metric or attribute; a wrong type, value, unit or instrument; a required attribute that is missing; a
//! wrong schema URL.

use std::collections::BTreeSet;

use acceptd_otlp::names::{EVENTS, METRICS, RESOURCE, SCHEMA_URL, SPANS, Type, Use};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::metric::Data,
    resource::v1::Resource,
};

/// Namespaces in which a Resource may have only registered attributes. Attributes in other namespaces come
/// from the observed process or from the operator.
const OBSERVED: [&str; 7] = ["acceptd.", "container.", "host.", "k8s.", "os.", "process.", "telemetry."];

/// Violations in a logs request.
#[must_use]
pub fn violations_in_logs(message: &ExportLogsServiceRequest) -> Vec<String> {
    let mut wrong = Violations::default();
    for resource_group in &message.resource_logs {
        wrong.resource(resource_group.resource.as_ref(), &resource_group.schema_url);
        for record in resource_group.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            match EVENTS.iter().find(|event| event.name == record.event_name) {
                None => wrong.add(&record.event_name, "no such event"),
                Some(event) => wrong.attributes(event.name, &record.attributes, event.attributes),
            }
        }
    }
    wrong.0
}

/// Violations in a trace request.
#[must_use]
pub fn violations_in_traces(message: &ExportTraceServiceRequest) -> Vec<String> {
    let mut wrong = Violations::default();
    for resource_group in &message.resource_spans {
        wrong.resource(resource_group.resource.as_ref(), &resource_group.schema_url);
        for span in resource_group.scope_spans.iter().flat_map(|scope| &scope.spans) {
            match SPANS.iter().find(|known| known.name == span.name) {
                None => wrong.add(&span.name, "no such span"),
                Some(known) => wrong.attributes(known.name, &span.attributes, known.attributes),
            }
        }
    }
    wrong.0
}

/// Violations in a metrics request.
#[must_use]
pub fn violations_in_metrics(message: &ExportMetricsServiceRequest) -> Vec<String> {
    let mut wrong = Violations::default();
    for resource_group in &message.resource_metrics {
        wrong.metrics_resource(resource_group.resource.as_ref(), &resource_group.schema_url);
        for metric in resource_group.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            let name = &metric.name;
            let Some(known) = METRICS.iter().find(|known| known.name == name) else {
                wrong.add(name, "no such metric");
                continue;
            };
            if (metric.unit.as_str(), metric.description.as_str()) != (known.unit, known.brief) {
                wrong.add(name, "wrong unit or description");
            }
            let (instrument, points): (_, Vec<&[KeyValue]>) = match &metric.data {
                Some(Data::Sum(sum)) => {
                    let instrument = if sum.is_monotonic { "counter" } else { "updowncounter" };
                    (instrument, sum.data_points.iter().map(|point| &*point.attributes).collect())
                }
                Some(Data::Gauge(gauge)) => {
                    ("gauge", gauge.data_points.iter().map(|point| &*point.attributes).collect())
                }
                Some(Data::ExponentialHistogram(histogram)) => {
                    ("histogram", histogram.data_points.iter().map(|point| &*point.attributes).collect())
                }
                _ => ("unsupported data type", Vec::new()),
            };
            if instrument != known.instrument {
                wrong.add(name, &format!("{instrument}, not {}", known.instrument));
            }
            for attributes in points {
                wrong.attributes(name, attributes, known.attributes);
            }
        }
    }
    wrong.0
}

#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn add(&mut self, subject: &str, problem: &str) {
        self.0.push(format!("{subject}: {problem}"));
    }

    /// Metrics of listeners in a container have the container's Resource, which names no process.
    fn metrics_resource(&mut self, resource: Option<&Resource>, schema_url: &str) {
        let has =
            |key: &str| resource.is_some_and(|resource| resource.attributes.iter().any(|one| one.key == key));
        let of_container = (has("container.id") || has("k8s.pod.uid")) && !has("process.pid");
        let needs = |known: &Use| !(of_container && known.key.starts_with("process."));
        self.resource_with(resource, schema_url, needs);
    }

    fn resource(&mut self, resource: Option<&Resource>, schema_url: &str) {
        self.resource_with(resource, schema_url, |_| true);
    }

    fn resource_with(
        &mut self,
        resource: Option<&Resource>,
        schema_url: &str,
        may_have: impl Fn(&Use) -> bool,
    ) {
        if schema_url != SCHEMA_URL {
            self.add("Resource", &format!("schema_url {schema_url:?}"));
        }
        let Some(resource) = resource else { return self.add("Resource", "absent") };
        let is_ours = |attribute: &&KeyValue| {
            let is_listed = RESOURCE.iter().any(|known| known.key == attribute.key);
            is_listed || OBSERVED.iter().any(|namespace| attribute.key.starts_with(namespace))
        };
        let ours: Vec<KeyValue> = resource.attributes.iter().filter(is_ours).cloned().collect();
        let known: Vec<Use> = RESOURCE.iter().copied().filter(may_have).collect();
        self.attributes("Resource", &ours, &known);
    }

    fn attributes(&mut self, subject: &str, found: &[KeyValue], known: &[Use]) {
        let mut keys = BTreeSet::new();
        for KeyValue { key, value, .. } in found {
            if !keys.insert(key.as_str()) {
                self.add(subject, &format!("{key} occurs twice"));
            }
            match known.iter().find(|known| known.key == key) {
                None => self.add(subject, &format!("{key} is not among its attributes")),
                Some(known) => {
                    if let Some(problem) =
                        mismatch(value.as_ref().and_then(|value| value.value.as_ref()), known)
                    {
                        self.add(subject, &format!("{key}: {problem}"));
                    }
                }
            }
        }
        for Use { key, .. } in known.iter().filter(|known| known.required && !keys.contains(known.key)) {
            self.add(subject, &format!("{key} is absent"));
        }
        for key in &keys {
            if keys.iter().any(|other| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))) {
                self.add(subject, &format!("{key} is a key and a prefix of another"));
            }
        }
    }
}

/// How a value deviates from its registered type or values; `None` if it does not.
fn mismatch(value: Option<&Value>, known: &Use) -> Option<String> {
    let is_right = match (value, known.value) {
        (Some(Value::StringValue(text)), Type::String) => {
            known.values.is_empty() || known.values.contains(&text.as_str())
        }
        (Some(Value::ArrayValue(array)), Type::Strings) => {
            let is_text = |value: &Option<Value>| matches!(value, Some(Value::StringValue(_)));
            array.values.iter().all(|value| is_text(&value.value))
        }
        (Some(Value::IntValue(_)), Type::Int) | (Some(Value::BoolValue(_)), Type::Boolean) => true,
        _ => false,
    };
    (!is_right).then(|| format!("{value:?} is no {:?} of {:?}", known.value, known.values))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        common::v1::AnyValue,
        logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };

    use super::*;

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn text(key: &str) -> KeyValue {
        attribute(key, Value::StringValue("x".to_owned()))
    }

    fn int(key: &str) -> KeyValue {
        attribute(key, Value::IntValue(1))
    }

    /// A Resource with every required attribute.
    fn resource() -> Resource {
        let required = RESOURCE.iter().filter(|known| known.required);
        let attributes =
            required.map(|known| if known.value == Type::Int { int(known.key) } else { text(known.key) });
        Resource { attributes: attributes.collect(), ..Resource::default() }
    }

    fn logs(name: &str, attributes: Vec<KeyValue>) -> ExportLogsServiceRequest {
        let record = LogRecord { event_name: name.to_owned(), attributes, ..LogRecord::default() };
        let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
        let group = ResourceLogs {
            resource: Some(resource()),
            scope_logs: vec![scope],
            schema_url: SCHEMA_URL.to_owned(),
        };
        ExportLogsServiceRequest { resource_logs: vec![group] }
    }

    #[test]
    fn conforming_records_have_no_violations() {
        let stopped = logs("acceptd.agent.stopped", vec![text("log.record.uid")]);
        assert_eq!(violations_in_logs(&stopped), Vec::<String>::new());
        let mut with_more = stopped;
        let resource = with_more.resource_logs[0].resource.as_mut().expect("a Resource");
        resource.attributes.push(text("team"));
        assert_eq!(
            violations_in_logs(&with_more),
            Vec::<String>::new(),
            "an attribute that the operator added"
        );
    }

    #[test]
    fn each_kind_of_violation_is_named() {
        let uid = || text("log.record.uid");
        for (request, words) in [
            (logs("acceptd.agent.stoped", vec![uid()]), "no such event"),
            (logs("acceptd.agent.stopped", vec![]), "log.record.uid is absent"),
            (logs("acceptd.agent.stopped", vec![uid(), uid()]), "twice"),
            (logs("acceptd.agent.stopped", vec![int("log.record.uid")]), "is no String"),
            (logs("acceptd.agent.stopped", vec![uid(), text("log.record.uid.x")]), "a prefix of another"),
            (logs("acceptd.agent.stopped", vec![uid(), text("acceptd.self")]), "not among its attributes"),
            (
                logs("acceptd.events.lost", vec![uid(), text("acceptd.loss.reason")]),
                "is no String of [\"ring\"",
            ),
        ] {
            let found = violations_in_logs(&request);
            assert!(found.iter().any(|violation| violation.contains(words)), "{words}: {found:?}");
        }
        let mut misspelt = logs("acceptd.agent.stopped", vec![uid()]);
        let resource = misspelt.resource_logs[0].resource.as_mut().expect("a Resource");
        resource.attributes.push(text("process.executable_name"));
        assert_eq!(violations_in_logs(&misspelt).len(), 1, "{:?}", violations_in_logs(&misspelt));
    }

    #[test]
    fn unknown_span_names_are_violations() {
        let span = Span { name: "accept".to_owned(), ..Span::default() };
        let scope = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
        let group = ResourceSpans {
            resource: Some(resource()),
            scope_spans: vec![scope],
            schema_url: SCHEMA_URL.to_owned(),
        };
        assert_eq!(
            violations_in_traces(&ExportTraceServiceRequest { resource_spans: vec![group] }),
            ["accept: no such span"]
        );
    }
}
