//! The attributes of a metric as the OpenTelemetry API has them.

use opentelemetry::{KeyValue, Value};

use crate::health::metrics::instrument::Label;

/// One attribute.
pub(super) fn key_value((key, label): &(&'static str, Label<'_>)) -> KeyValue {
    let value: Value = match *label {
        Label::Text(text) => text.to_owned().into(),
        Label::Number(number) => number.into(),
        Label::Flag(flag) => flag.into(),
    };
    KeyValue::new(*key, value)
}
