//! Log records and spans as they arrived over OTLP, each flattened with its Resource for comparison.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use acceptd::bpf::Tier;
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{EntityRef, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    trace,
};

/// Attributes by key. [`flatten`] panics if a key occurs twice.
pub type Attributes = BTreeMap<String, Value>;

/// One log record, with the Resource it arrived under.
#[derive(Debug, Clone)]
pub struct Record {
    /// The number of the request it arrived in, counted by the inbox from 1.
    pub request: usize,
    /// The Resource's attributes.
    pub resource: Attributes,
    /// The types of the Resource's entities (`EntityRef.type`). Their id keys are all among `resource`.
    pub entities: BTreeSet<String>,
    /// The record's attributes.
    pub attributes: Attributes,
    /// The record as it arrived.
    pub log: LogRecord,
}

impl Record {
    /// All records of the request with this number.
    ///
    /// # Panics
    /// If an attribute key occurs twice, an entity lacks its id keys, or the request, a Resource or a scope
    /// is empty.
    #[must_use]
    pub fn from_request(request: usize, message: &ExportLogsServiceRequest) -> Vec<Self> {
        let mut records = Vec::new();
        assert!(!message.resource_logs.is_empty(), "an empty request");
        for resource_logs in &message.resource_logs {
            let whole = resource_logs.resource.clone().unwrap_or_default();
            let resource = flatten(&whole.attributes);
            let keys = |entity: &EntityRef| entity.id_keys.iter().all(|key| resource.contains_key(key));
            assert!(whole.entity_refs.iter().all(keys), "an entity without its keys: {whole:?}");
            let entities: BTreeSet<String> =
                whole.entity_refs.into_iter().map(|entity| entity.r#type).collect();
            assert!(!resource_logs.scope_logs.is_empty(), "a Resource without records");
            for scope_logs in &resource_logs.scope_logs {
                assert!(!scope_logs.log_records.is_empty(), "a scope without records");
                records.extend(scope_logs.log_records.iter().map(|log| Self {
                    request,
                    resource: resource.clone(),
                    entities: entities.clone(),
                    attributes: flatten(&log.attributes),
                    log: log.clone(),
                }));
            }
        }
        records
    }

    /// A text attribute of the record.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        as_text(self.attributes.get(key))
    }

    /// An integer attribute of the record.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        as_int(self.attributes.get(key))
    }

    /// A boolean attribute of the record.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        as_bool(self.attributes.get(key))
    }

    /// A text attribute of the Resource.
    #[must_use]
    pub fn resource_text(&self, key: &str) -> Option<&str> {
        as_text(self.resource.get(key))
    }

    /// An attribute of the Resource that is a list of texts; empty if it is absent.
    #[must_use]
    pub fn resource_texts(&self, key: &str) -> Vec<&str> {
        let Some(Value::ArrayValue(array)) = self.resource.get(key) else { return Vec::new() };
        array.values.iter().filter_map(|value| as_text(value.value.as_ref())).collect()
    }

    /// An integer attribute of the Resource.
    #[must_use]
    pub fn resource_int(&self, key: &str) -> Option<i64> {
        as_int(self.resource.get(key))
    }

    /// The capture tier (`acceptd.capture.tier`).
    ///
    /// # Panics
    /// If the record has none.
    #[must_use]
    pub fn tier(&self) -> Tier {
        let tier = self.int("acceptd.capture.tier").and_then(|tier| u8::try_from(tier).ok());
        tier.and_then(|tier| Tier::try_from(tier).ok()).unwrap_or_else(|| panic!("no tier: {self:?}"))
    }

    /// Whether the connection's local port is `port`, or, for records without one, the listener's.
    #[must_use]
    pub fn is_on_port(&self, port: u16) -> bool {
        self.int("network.local.port").or_else(|| self.int("acceptd.listener.port")) == Some(i64::from(port))
    }

    /// An integer attribute of the record that is a number of nanoseconds.
    ///
    /// # Panics
    /// If it is negative.
    #[must_use]
    pub fn nanos(&self, key: &str) -> Option<Duration> {
        self.int(key).map(|nanos| Duration::from_nanos(u64::try_from(nanos).expect("not negative")))
    }

    /// Address and port from `network.{side}.address` and `network.{side}.port`; `side` is `local` or `peer`.
    #[must_use]
    pub fn endpoint(&self, side: &str) -> Option<(IpAddr, u16)> {
        let address = self.text(&format!("network.{side}.address"))?.parse().ok()?;
        let port = u16::try_from(self.int(&format!("network.{side}.port"))?).ok()?;
        Some((address, port))
    }
}

/// One span, with the Resource it arrived under.
#[derive(Debug, Clone)]
pub struct Span {
    /// The Resource's attributes.
    pub resource: Attributes,
    /// The span's attributes.
    pub attributes: Attributes,
    /// The span as it arrived.
    pub span: trace::v1::Span,
}

impl Span {
    /// All spans of a request.
    ///
    /// # Panics
    /// If an attribute key occurs twice, or a span ends before it starts.
    #[must_use]
    pub fn from_request(message: &ExportTraceServiceRequest) -> Vec<Self> {
        let mut spans = Vec::new();
        for resource_spans in &message.resource_spans {
            let whole = resource_spans.resource.clone().unwrap_or_default();
            let resource = flatten(&whole.attributes);
            for span in resource_spans.scope_spans.iter().flat_map(|scope| &scope.spans) {
                assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
                let (resource, span) = (resource.clone(), span.clone());
                spans.push(Self { resource, attributes: flatten(&span.attributes), span });
            }
        }
        spans
    }

    /// From the span's start to its end.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.span.end_time_unix_nano - self.span.start_time_unix_nano)
    }

    /// Whether the span starts and ends within `whole`.
    #[must_use]
    pub fn is_within(&self, whole: &Self) -> bool {
        self.span.start_time_unix_nano >= whole.span.start_time_unix_nano
            && self.span.end_time_unix_nano <= whole.span.end_time_unix_nano
    }

    /// A text attribute of the span.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        as_text(self.attributes.get(key))
    }

    /// An integer attribute of the span.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        as_int(self.attributes.get(key))
    }

    /// A boolean attribute of the span.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        as_bool(self.attributes.get(key))
    }
}

/// Attributes by key.
///
/// # Panics
/// If a key occurs twice, or has no value.
pub(crate) fn flatten(attributes: &[KeyValue]) -> Attributes {
    let mut out = Attributes::new();
    for attribute in attributes {
        let value = attribute.value.as_ref().and_then(|value| value.value.clone());
        let value = value.unwrap_or_else(|| panic!("{} has no value", attribute.key));
        assert!(out.insert(attribute.key.clone(), value).is_none(), "{} occurs twice", attribute.key);
    }
    out
}

fn as_bool(value: Option<&Value>) -> Option<bool> {
    match value {
        Some(Value::BoolValue(value)) => Some(*value),
        _ => None,
    }
}

fn as_text(value: Option<&Value>) -> Option<&str> {
    match value {
        Some(Value::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn as_int(value: Option<&Value>) -> Option<i64> {
    match value {
        Some(Value::IntValue(number)) => Some(*number),
        _ => None,
    }
}
