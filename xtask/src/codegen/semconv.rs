//! The part of OpenTelemetry's semantic conventions that acceptd uses, copied from their model
//! (semantic-conventions v1.45.0, model/): a reference in a registry has neither type nor unit.

use serde::Deserialize;

/// A primitive type of a value.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Primitive {
    String,
    #[serde(rename = "string[]")]
    Strings,
    Int,
    Boolean,
}

/// The attributes whose values are not strings.
const TYPES: [(&str, Primitive); 11] = [
    ("client.port", Primitive::Int),
    ("network.local.port", Primitive::Int),
    ("network.peer.port", Primitive::Int),
    ("otel.metric.overflow", Primitive::Boolean),
    ("process.args_count", Primitive::Int),
    ("process.command_args", Primitive::Strings),
    ("process.parent_pid", Primitive::Int),
    ("process.pid", Primitive::Int),
    ("process.real_user.id", Primitive::Int),
    ("process.user.id", Primitive::Int),
    ("server.port", Primitive::Int),
];

/// The type of an attribute of the semantic conventions.
pub(crate) fn type_of(key: &str) -> Primitive {
    TYPES.iter().find(|(known, _)| *known == key).map_or(Primitive::String, |(_, primitive)| *primitive)
}

/// A metric of the semantic conventions, with the attributes that acceptd sets.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) instrument: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) brief: &'static str,
    /// Keys, each with whether it is always present.
    pub(crate) attributes: &'static [(&'static str, bool)],
}

const COMPONENT: &[(&str, bool)] = &[("otel.component.name", true), ("otel.component.type", true)];
const EXPORTED: &[(&str, bool)] =
    &[("otel.component.name", true), ("otel.component.type", true), ("error.type", false)];

const METRICS: [Metric; 8] = [
    Metric {
        name: "otel.sdk.log.created",
        instrument: "counter",
        unit: "{log_record}",
        brief: "Log records made.",
        attributes: &[],
    },
    Metric {
        name: "otel.sdk.span.started",
        instrument: "counter",
        unit: "{span}",
        brief: "Spans made.",
        attributes: &[],
    },
    Metric {
        name: "otel.sdk.exporter.span.exported",
        instrument: "counter",
        unit: "{span}",
        brief: "Spans that the destination has, or that it did not get for the reason in error.type.",
        attributes: &[("error.type", false)],
    },
    Metric {
        name: "otel.sdk.exporter.log.exported",
        instrument: "counter",
        unit: "{log_record}",
        brief: "Log records that a destination has, or that it did not get for the reason in error.type.",
        attributes: EXPORTED,
    },
    Metric {
        name: "otel.sdk.exporter.log.inflight",
        instrument: "updowncounter",
        unit: "{log_record}",
        brief: "Log records on their way to a destination.",
        attributes: COMPONENT,
    },
    Metric {
        name: "otel.sdk.processor.log.queue.size",
        instrument: "updowncounter",
        unit: "{log_record}",
        brief: "Log records that wait in memory for a destination.",
        attributes: COMPONENT,
    },
    Metric {
        name: "process.cpu.time",
        instrument: "counter",
        unit: "s",
        brief: "CPU time of the agent, without that of its programs in the kernel.",
        attributes: &[("cpu.mode", true)],
    },
    Metric {
        name: "process.memory.usage",
        instrument: "updowncounter",
        unit: "By",
        brief: "Resident memory of the agent.",
        attributes: &[],
    },
];

/// The metric of this name.
pub(crate) fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}
