//! What the backends answer, each in its own shape, as rows of one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One result; values as text.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// By names that are the same in each backend.
    known: BTreeMap<String, String>,
    /// By the backend's own.
    told: BTreeMap<String, String>,
}

/// What Loki shows of a record.
pub(super) const LINE: &str = "line";

/// Names for the same thing: of metrics, of aggregations in docs/queries.md, and of Jaeger.
const SAME: [(&str, &str); 10] = [
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

/// What stands for a backend's name of something.
pub(super) fn known_as(name: &str) -> String {
    let plain = plain(name);
    same(&plain).map_or(plain, str::to_owned)
}

/// Without what the backend puts before it, with underscores for dots.
fn plain(name: &str) -> String {
    let name = name.strip_prefix("resource.").unwrap_or(name);
    name.strip_prefix("attributes.").unwrap_or(name).replace('.', "_")
}

fn same(name: &str) -> Option<&'static str> {
    SAME.iter().find(|(other, _)| *other == name).map(|(_, same)| *same)
}

impl Row {
    /// The value of what is known under this name.
    pub(super) fn get(&self, name: &str) -> Option<&String> {
        self.known.get(name)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &String> {
        self.known.values()
    }

    /// All of it, by the backend's own names.
    pub(super) fn told(&self) -> &BTreeMap<String, String> {
        &self.told
    }

    pub(super) fn insert(&mut self, name: &str, value: &Value) {
        let value = match value {
            Value::String(text) => text.clone(),
            // Elasticsearch has all fields as lists.
            Value::Array(one) if one.len() == 1 => return self.insert(name, &one[0]),
            other => other.to_string(),
        };
        let plain = plain(name);
        match same(&plain) {
            Some(same) => drop(self.known.insert(same.to_owned(), value.clone())),
            // Whose metric it is goes before who sent it: the agent is a service, too.
            None => drop(self.known.entry(plain).or_insert_with(|| value.clone())),
        }
        self.told.entry(name.to_owned()).or_insert(value);
    }

    #[cfg(test)]
    pub(super) fn of(columns: &[(&str, &str)]) -> Self {
        let mut row = Self::default();
        for (name, value) in columns {
            row.insert(name, &Value::from(*value));
        }
        row
    }
}

fn row(members: &Value) -> Row {
    let mut all = Row::default();
    for (name, value) in members.as_object().into_iter().flatten() {
        all.insert(name, value);
    }
    all
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Prometheus's query and Loki's: series with a value, and of Loki also lines.
pub(super) fn series(answer: &Value) -> Result<Vec<Row>> {
    if answer["status"] != "success" {
        bail!("{answer}");
    }
    let mut rows = Vec::new();
    for result in list(&answer["data"]["result"]) {
        if let Some(stream) = result.get("stream") {
            for entry in list(&result["values"]) {
                let mut one = row(stream);
                one.insert(LINE, &entry[1]);
                rows.push(one);
            }
            continue;
        }
        let mut one = row(&result["metric"]);
        let last = result["values"].as_array().and_then(|values| values.last());
        // Of a native histogram how much is in it.
        let value = match last.or(result.get("value")) {
            Some(value) => &value[1],
            None => &result["histogram"][1]["count"],
        };
        one.insert("value", value);
        rows.push(one);
    }
    Ok(rows)
}

/// Jaeger's older API: each span, with the tags of its process.
pub(super) fn traces(answer: &Value) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for trace in list(&answer["data"]) {
        for span in list(&trace["spans"]) {
            let process = &trace["processes"][span["processID"].as_str().context("a span of no process")?];
            let mut one = Row::default();
            one.insert("service.name", &process["serviceName"]);
            for name in ["traceID", "spanID", "operationName"] {
                one.insert(name, &span[name]);
            }
            let microseconds = span["duration"].as_u64().context("a span without a duration")?;
            one.insert("duration_ns", &(microseconds * 1000).into());
            for tag in list(&process["tags"]).chain(list(&span["tags"])) {
                one.insert(tag["key"].as_str().unwrap_or_default(), &tag["value"]);
            }
            rows.push(one);
        }
    }
    Ok(rows)
}

/// Jaeger's newer one: OTLP.
pub(super) fn otlp(answer: &Value) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for resource in list(&answer["result"]["resourceSpans"]) {
        for span in list(&resource["scopeSpans"]).flat_map(|scope| list(&scope["spans"])) {
            let mut one = Row::default();
            let nanoseconds = |name: &str| span[name].as_str().and_then(|text| text.parse::<u64>().ok());
            let (start, end) = (nanoseconds("startTimeUnixNano"), nanoseconds("endTimeUnixNano"));
            let (start, end) = start.zip(end).context("a span without its times")?;
            one.insert("duration_ns", &end.saturating_sub(start).into());
            one.insert("traceID", &span["traceId"]);
            one.insert("name", &span["name"]);
            for attribute in list(&resource["resource"]["attributes"]).chain(list(&span["attributes"])) {
                let value = attribute["value"].as_object().and_then(|value| value.values().next());
                one.insert(attribute["key"].as_str().unwrap_or_default(), value.unwrap_or(&Value::Null));
            }
            rows.push(one);
        }
    }
    Ok(rows)
}

/// Elasticsearch: hits by their fields, or the buckets of the aggregation.
pub(super) fn search(answer: &Value) -> Result<Vec<Row>> {
    if answer["timed_out"] != false || answer["_shards"]["failed"] != 0 {
        bail!("not a whole answer: {answer}");
    }
    let hits = list(&answer["hits"]["hits"]).map(|hit| row(&hit["fields"]));
    let aggregations = answer["aggregations"].as_object().into_iter().flatten();
    let buckets = aggregations.flat_map(|(_, aggregation)| list(&aggregation["buckets"])).map(bucket);
    Ok(hits.chain(buckets).collect())
}

fn bucket(bucket: &Value) -> Row {
    let mut one = if bucket["key"].is_object() { row(&bucket["key"]) } else { Row::default() };
    for (name, value) in bucket.as_object().into_iter().flatten() {
        match name.as_str() {
            "key" if value.is_object() => {}
            "key" | "doc_count" => one.insert(name, value),
            _ => {
                for (of, value) in value["values"].as_object().into_iter().flatten() {
                    one.insert(&format!("{name}_{of}"), value);
                }
                if let Some(value) = value.get("value_as_string").or(value.get("value")) {
                    one.insert(name, value);
                }
            }
        }
    }
    one
}

/// `VictoriaLogs`: an object a line.
pub(super) fn lines(answer: &str) -> Result<Vec<Row>> {
    let parsed = |line: &str| Ok(row(&serde_json::from_str(line).with_context(|| line.to_owned())?));
    answer.lines().filter(|line| !line.is_empty()).map(parsed).collect()
}
