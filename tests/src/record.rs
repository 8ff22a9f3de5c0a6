//! Records as they arrived over OTLP, flattened for comparison.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use acceptd::bpf::Tier;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{EntityRef, KeyValue, any_value::Value},
    logs::v1::LogRecord,
};

/// Attributes by key. Keys are unique, or [`Record::of_request`] panics.
pub type Attributes = BTreeMap<String, Value>;

/// One log record with the Resource that it arrived under.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which request it came in, counted by the receiver.
    pub request: usize,
    /// Attributes of the Resource.
    pub resource: Attributes,
    /// Types of its entities, each of which has its keys among the attributes.
    pub entities: BTreeSet<String>,
    /// Attributes of the record.
    pub attributes: Attributes,
    /// The record itself.
    pub log: LogRecord,
}

impl Record {
    /// Every record of a request.
    ///
    /// # Panics
    /// When a record or a Resource has one key twice, or an envelope is empty.
    #[must_use]
    pub fn of_request(request: usize, message: &ExportLogsServiceRequest) -> Vec<Self> {
        let mut records = Vec::new();
        assert!(!message.resource_logs.is_empty(), "an empty request");
        for resource_logs in &message.resource_logs {
            let whole = resource_logs.resource.clone().unwrap_or_default();
            let resource = flat(&whole.attributes);
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
                    attributes: flat(&log.attributes),
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
        match self.attributes.get(key) {
            Some(Value::BoolValue(value)) => Some(*value),
            _ => None,
        }
    }

    /// A text attribute of the Resource.
    #[must_use]
    pub fn resource_text(&self, key: &str) -> Option<&str> {
        as_text(self.resource.get(key))
    }

    /// An integer attribute of the Resource.
    #[must_use]
    pub fn resource_int(&self, key: &str) -> Option<i64> {
        as_int(self.resource.get(key))
    }

    /// `acceptd.capture.tier`
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn tier(&self) -> Tier {
        let tier = self.int("acceptd.capture.tier").and_then(|tier| u8::try_from(tier).ok());
        tier.and_then(|tier| Tier::try_from(tier).ok()).unwrap_or_else(|| panic!("no tier: {self:?}"))
    }

    /// Whether it is of a listener on `port`: by its own address, or the listener's where that is gone.
    #[must_use]
    pub fn is_of_port(&self, port: u16) -> bool {
        self.int("network.local.port").or_else(|| self.int("acceptd.listener.port")) == Some(i64::from(port))
    }

    /// A number of nanoseconds.
    ///
    /// # Panics
    /// When it is negative.
    #[must_use]
    pub fn nanos(&self, key: &str) -> Option<Duration> {
        self.int(key).map(|nanos| Duration::from_nanos(u64::try_from(nanos).expect("not negative")))
    }

    /// `network.local.*` or `network.peer.*`.
    #[must_use]
    pub fn endpoint(&self, side: &str) -> Option<(IpAddr, u16)> {
        let address = self.text(&format!("network.{side}.address"))?.parse().ok()?;
        let port = u16::try_from(self.int(&format!("network.{side}.port"))?).ok()?;
        Some((address, port))
    }
}

fn flat(attributes: &[KeyValue]) -> Attributes {
    let mut out = Attributes::new();
    for attribute in attributes {
        let value = attribute.value.as_ref().and_then(|value| value.value.clone());
        let value = value.unwrap_or_else(|| panic!("{} has no value", attribute.key));
        assert!(out.insert(attribute.key.clone(), value).is_none(), "{} is there twice", attribute.key);
    }
    out
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
