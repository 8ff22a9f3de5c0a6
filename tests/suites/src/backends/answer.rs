//! Converts the answers of all backends, each in a format of its own, into rows with common column names.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use opentelemetry_proto::tonic::trace::v1::TracesData;
use serde_json::Value;

use crate::records::{add_omitted_members, hexadecimal, text};

/// One result. Values are text.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// The values by column names that are the same for all backends.
    common: BTreeMap<String, String>,
    /// The values by the backend's own column names.
    original: BTreeMap<String, String>,
}

/// The column with the text line that Loki shows for a record.
pub(super) const LINE: &str = "line";

/// Columns of metrics, of aggregations in docs/queries.md, and of Jaeger, each with its common name.
const COMMON_NAMES: [(&str, &str); 10] = [
    ("acceptd_listener_service", "service_name"),
    ("acceptd_listener_port", "network_local_port"),
    ("service", "service_name"),
    ("pid", "process_pid"),
    ("port", "network_local_port"),
    ("peer", "network_peer_address"),
    ("peer_pid", "acceptd_peer_pid"),
    ("error", "error_type"),
    ("traceID", "trace_id"),
    ("operationName", "name"),
];

/// The common name for a backend's name.
pub(super) fn common_name(name: &str) -> String {
    let plain = plain(name);
    renamed(&plain).map_or(plain, str::to_owned)
}

/// A name without the prefixes of Elasticsearch, and with underscores instead of dots.
fn plain(name: &str) -> String {
    let name = name.strip_prefix("resource.").unwrap_or(name);
    name.strip_prefix("attributes.").unwrap_or(name).replace('.', "_")
}

fn renamed(name: &str) -> Option<&'static str> {
    COMMON_NAMES.iter().find(|(other, _)| *other == name).map(|(_, common)| *common)
}

impl Row {
    /// The value of a column, by its common name.
    pub(super) fn get(&self, name: &str) -> Option<&String> {
        self.common.get(name)
    }

    /// All values.
    pub(super) fn values(&self) -> impl Iterator<Item = &String> {
        self.common.values()
    }

    /// All columns, by the backend's own names.
    pub(super) fn original(&self) -> &BTreeMap<String, String> {
        &self.original
    }

    /// Adds a column, whose name is the backend's own.
    pub(super) fn insert(&mut self, name: &str, value: &Value) {
        let value = match value {
            Value::String(text) => text.clone(),
            // Elasticsearch returns each field as a list.
            Value::Array(values) if values.len() == 1 => return self.insert(name, &values[0]),
            other => other.to_string(),
        };
        let plain = plain(name);
        match renamed(&plain) {
            Some(common) => drop(self.common.insert(common.to_owned(), value.clone())),
            // A metric has two services, that of its listener and that of the agent. The listener's is a
            // renamed column, and overrides the agent's.
            None => drop(self.common.entry(plain).or_insert_with(|| value.clone())),
        }
        self.original.entry(name.to_owned()).or_insert(value);
    }

    #[cfg(test)]
    pub(super) fn from_columns(columns: &[(&str, &str)]) -> Self {
        let mut row = Self::default();
        for (name, value) in columns {
            row.insert(name, &Value::from(*value));
        }
        row
    }
}

fn to_row(members: &Value) -> Row {
    let mut row = Row::default();
    for (name, value) in members.as_object().into_iter().flatten() {
        row.insert(name, value);
    }
    row
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Answers of Prometheus and Loki: series with a value, or Loki's streams of lines.
pub(super) fn series(answer: &Value) -> Result<Vec<Row>> {
    if answer["status"] != "success" {
        bail!("{answer}");
    }
    let mut rows = Vec::new();
    for result in list(&answer["data"]["result"]) {
        if let Some(stream) = result.get("stream") {
            for entry in list(&result["values"]) {
                let mut row = to_row(stream);
                row.insert(LINE, &entry[1]);
                rows.push(row);
            }
            continue;
        }
        let mut row = to_row(&result["metric"]);
        let last = result["values"].as_array().and_then(|values| values.last());
        // A native histogram is represented by its count.
        let value = match last.or(result.get("value")) {
            Some(value) => &value[1],
            None => &result["histogram"][1]["count"],
        };
        row.insert("value", value);
        rows.push(row);
    }
    Ok(rows)
}

/// Answers of Jaeger's older API: a row for each span, with the tags of its process.
pub(super) fn traces(answer: &Value) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for trace in list(&answer["data"]) {
        for span in list(&trace["spans"]) {
            let process =
                &trace["processes"][span["processID"].as_str().context("a span without a process")?];
            let mut row = Row::default();
            row.insert("service.name", &process["serviceName"]);
            for name in ["traceID", "spanID", "operationName"] {
                row.insert(name, &span[name]);
            }
            let microseconds = span["duration"].as_u64().context("a span without a duration")?;
            row.insert("duration_ns", &(microseconds * 1000).into());
            for tag in list(&process["tags"]).chain(list(&span["tags"])) {
                row.insert(tag["key"].as_str().unwrap_or_default(), &tag["value"]);
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Answers of Jaeger's newer API: OTLP.
pub(super) fn otlp(answer: &Value) -> Result<Vec<Row>> {
    let mut result = answer["result"].clone();
    add_omitted_members(&mut result);
    let traces: TracesData = serde_json::from_value(result).context("not OTLP in JSON")?;
    let mut rows = Vec::new();
    for resource_spans in traces.resource_spans {
        let resource = resource_spans.resource.unwrap_or_default();
        for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let mut row = Row::default();
            let duration = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
            row.insert("duration_ns", &duration.into());
            row.insert("traceID", &hexadecimal(&span.trace_id).into());
            row.insert("name", &span.name.into());
            for attribute in resource.attributes.iter().chain(&span.attributes) {
                row.insert(&attribute.key, &text(attribute.value.clone()).into());
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Answers of Elasticsearch: the fields of each hit, or the buckets of the aggregation.
pub(super) fn search(answer: &Value) -> Result<Vec<Row>> {
    if answer["timed_out"] != false || answer["_shards"]["failed"] != 0 {
        bail!("an incomplete answer: {answer}");
    }
    let hits = list(&answer["hits"]["hits"]).map(|hit| to_row(&hit["fields"]));
    let aggregations = answer["aggregations"].as_object().into_iter().flatten();
    let buckets = aggregations.flat_map(|(_, aggregation)| list(&aggregation["buckets"])).map(bucket);
    Ok(hits.chain(buckets).collect())
}

fn bucket(bucket: &Value) -> Row {
    let mut row = if bucket["key"].is_object() { to_row(&bucket["key"]) } else { Row::default() };
    for (name, value) in bucket.as_object().into_iter().flatten() {
        match name.as_str() {
            "key" if value.is_object() => {}
            "key" | "doc_count" => row.insert(name, value),
            _ => {
                for (percentile, value) in value["values"].as_object().into_iter().flatten() {
                    row.insert(&format!("{name}_{percentile}"), value);
                }
                if let Some(value) = value.get("value_as_string").or(value.get("value")) {
                    row.insert(name, value);
                }
            }
        }
    }
    row
}

/// Answers of `VictoriaLogs`: a JSON object on each line.
pub(super) fn lines(answer: &str) -> Result<Vec<Row>> {
    let parsed = |line: &str| Ok(to_row(&serde_json::from_str(line).with_context(|| line.to_owned())?));
    answer.lines().filter(|line| !line.is_empty()).map(parsed).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::otlp;

    #[test]
    fn a_span_of_jaegers_newer_api_is_a_row() {
        let answer = json!({ "result": { "resourceSpans": [{
            "resource": { "attributes": [
                { "key": "service.name", "value": { "stringValue": "slow" } },
                { "key": "process.pid", "value": { "intValue": "7" } },
            ] },
            "scopeSpans": [{ "scope": {}, "spans": [{
                "traceId": "0102030405060708090a0b0c0d0e0f10", "spanId": "0102030405060708", "parentSpanId": "",
                "name": "accept queue", "kind": 1, "startTimeUnixNano": "1000", "endTimeUnixNano": "3000",
                "attributes": [], "status": {},
            }] }],
        }] } });
        let rows = otlp(&answer).expect("OTLP");
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        for (name, value) in [
            ("service_name", "slow"),
            ("process_pid", "7"),
            ("duration_ns", "2000"),
            ("name", "accept queue"),
            ("trace_id", "0102030405060708090a0b0c0d0e0f10"),
        ] {
            assert_eq!(row.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
}
