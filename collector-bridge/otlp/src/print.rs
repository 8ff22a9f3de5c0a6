//! Prints requests for people and for programs: as columns, as flat JSON, or as OTLP JSON lines.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use jiff::{Timestamp, tz::TimeZone};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, LogsData},
    metrics::v1::MetricsData,
    trace::v1::TracesData,
};
use prost::Message as _;
use serde_json::{Map, Value as Json, json};

use crate::{batch::Batch, names, receiver::Received, signal::Signal};

/// Longest name of a process that the kernel keeps (`TASK_COMM_LEN`, include/linux/sched.h).
const MAX_COMM_BYTES: usize = 15;

/// Upper bound of the characters of one value in a column.
const MAX_VALUE_CHARS: usize = 256;

/// The format of printed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrintFormat {
    /// One line per record, with the columns of bcc's tcpaccept.
    Columns,
    /// One flat JSON object per record, with the names of the attributes as keys.
    Json,
    /// One line per request, with its `LogsData`, `TracesData` or `MetricsData`: the OTLP file format.
    OtlpJson,
}

/// Prints requests in one format.
#[derive(Debug)]
pub struct Printer {
    format: PrintFormat,
    header_due: bool,
}

impl Printer {
    /// A printer. `header` prints the names of the columns before the first record; other formats ignore it.
    #[must_use]
    pub fn new(format: PrintFormat, header: bool) -> Self {
        Self { format, header_due: header && format == PrintFormat::Columns }
    }

    /// Decodes and prints a batch of this agent.
    ///
    /// # Errors
    /// The batch cannot be decoded, or `out` cannot be written.
    pub fn print_batch(&mut self, out: &mut impl Write, batch: &Batch) -> io::Result<()> {
        self.print(out, &decode(batch)?)
    }

    /// Prints a received request.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn print(&mut self, out: &mut impl Write, received: &Received) -> io::Result<()> {
        if std::mem::take(&mut self.header_due) {
            columns(
                out,
                ["TIME", "PID", "COMM", "IP", "RADDR", "RPORT", "LADDR", "LPORT", "QUEUE_MS", "RET"],
            )?;
        }
        match (self.format, received) {
            (PrintFormat::OtlpJson, _) => otlp_json(out, received),
            (_, Received::Logs(logs)) => for_each_record(logs, |resource, record| match self.format {
                PrintFormat::Json => {
                    writeln!(out, "{}", sanitize_json(flat_json(resource, record).to_string()))
                }
                _ => column_line(out, resource, record),
            }),
            (_, Received::Traces(_)) => other_signal(out, "spans", received),
            (_, Received::Metrics(_)) => other_signal(out, "metrics", received),
        }
    }
}

fn decode(batch: &Batch) -> io::Result<Received> {
    let request = batch.request.clone();
    let received = match batch.signal {
        Signal::Logs => ExportLogsServiceRequest::decode(request).map(Received::Logs),
        Signal::Traces => ExportTraceServiceRequest::decode(request).map(Received::Traces),
        Signal::Metrics => ExportMetricsServiceRequest::decode(request).map(Received::Metrics),
    };
    received.map_err(io::Error::other)
}

fn other_signal(out: &mut impl Write, items: &str, received: &Received) -> io::Result<()> {
    writeln!(out, "# {} {items} (--output otlp-json shows them)", received.records())
}

fn for_each_record(
    logs: &ExportLogsServiceRequest,
    mut print: impl FnMut(&[KeyValue], &LogRecord) -> io::Result<()>,
) -> io::Result<()> {
    for resource_logs in &logs.resource_logs {
        let resource = resource_logs.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        for record in resource_logs.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            print(resource, record)?;
        }
    }
    Ok(())
}

fn otlp_json(out: &mut impl Write, received: &Received) -> io::Result<()> {
    let json = match received {
        Received::Logs(logs) => {
            serde_json::to_string(&LogsData { resource_logs: logs.resource_logs.clone() })
        }
        Received::Traces(traces) => {
            serde_json::to_string(&TracesData { resource_spans: traces.resource_spans.clone() })
        }
        Received::Metrics(metrics) => {
            serde_json::to_string(&MetricsData { resource_metrics: metrics.resource_metrics.clone() })
        }
    };
    writeln!(out, "{}", sanitize_json(json.map_err(io::Error::other)?))
}

fn flat_json(resource: &[KeyValue], record: &LogRecord) -> Json {
    let mut flat = Map::new();
    flat.insert(
        "time".to_owned(),
        json!(time(record.time_unix_nano, &TimeZone::UTC, "%Y-%m-%dT%H:%M:%S.%9fZ")),
    );
    flat.insert("event_name".to_owned(), json!(record.event_name));
    flat.insert("severity_number".to_owned(), json!(record.severity_number));
    flat.insert("body".to_owned(), record.body.as_ref().map_or(Json::Null, to_json));
    if !record.trace_id.is_empty() {
        flat.insert("trace_id".to_owned(), json!(hex(&record.trace_id)));
        flat.insert("span_id".to_owned(), json!(hex(&record.span_id)));
    }
    for attribute in resource.iter().chain(&record.attributes) {
        flat.insert(attribute.key.clone(), attribute.value.as_ref().map_or(Json::Null, to_json));
    }
    Json::Object(flat)
}

fn to_json(value: &AnyValue) -> Json {
    match &value.value {
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::BoolValue(value)) => json!(value),
        Some(Value::IntValue(value)) => json!(value),
        Some(Value::DoubleValue(value)) => json!(value),
        Some(Value::BytesValue(bytes)) => json!(hex(bytes)),
        Some(Value::ArrayValue(array)) => array.values.iter().map(to_json).collect(),
        Some(Value::KvlistValue(list)) => {
            let entry =
                |entry: &KeyValue| (entry.key.clone(), entry.value.as_ref().map_or(Json::Null, to_json));
            list.values.iter().map(entry).collect()
        }
        _ => Json::Null,
    }
}

/// Escapes control characters, so that the text cannot control a terminal. Backslashes stay as they are,
/// because acceptd has escaped its own texts already.
fn sanitize(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars().take(MAX_VALUE_CHARS) {
        if character.is_control() { shown.extend(character.escape_unicode()) } else { shown.push(character) }
    }
    shown
}

/// The same for JSON. `serde_json` escapes C0 itself, but not DEL and C1; those only occur within strings.
fn sanitize_json(json: String) -> String {
    if !json.contains(char::is_control) {
        return json;
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if character.is_control() {
            shown.push_str("\\u00");
            shown.push_str(&hex(&[u8::try_from(character).unwrap_or(b'?')]));
        } else {
            shown.push(character);
        }
    }
    shown
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` does not fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

fn column_line(out: &mut impl Write, resource: &[KeyValue], record: &LogRecord) -> io::Result<()> {
    let find = |attributes: &[KeyValue], key: &str| {
        let found = attributes.iter().find(|attribute| attribute.key == key);
        found.and_then(|attribute| attribute.value.as_ref()).map(to_json)
    };
    // The sender is not trusted: a value must not be able to control the terminal.
    let shown = |value: Option<Json>| match value {
        Some(Json::String(text)) => sanitize(&text),
        Some(value) => value.to_string(),
        None => "-".to_owned(),
    };
    let record_value = |key| find(&record.attributes, key);
    let version = match record_value(names::NETWORK_TYPE).as_ref().and_then(Json::as_str) {
        Some("ipv4") => "4",
        Some("ipv6") => "6",
        _ => "-",
    };
    let queue = record_value(names::ACCEPTD_ACCEPT_QUEUE_TIME_NS).and_then(|nanos| nanos.as_u64());
    let result = result(
        &record.event_name,
        record_value(names::ERROR_TYPE).map(|error| shown(Some(error))),
        shown(record_value(names::ACCEPTD_SOCKET_FD)),
    );
    columns(
        out,
        [
            &time(record.time_unix_nano, &TimeZone::system(), "%H:%M:%S.%3f"),
            &shown(find(resource, names::PROCESS_PID)),
            &comm(shown(
                find(resource, names::PROCESS_TITLE)
                    .or_else(|| find(resource, names::PROCESS_EXECUTABLE_NAME)),
            )),
            version,
            &shown(record_value(names::NETWORK_PEER_ADDRESS)),
            &shown(record_value(names::NETWORK_PEER_PORT)),
            &shown(
                record_value(names::NETWORK_LOCAL_ADDRESS)
                    .or_else(|| record_value(names::ACCEPTD_LISTENER_ADDRESS)),
            ),
            &shown(
                record_value(names::NETWORK_LOCAL_PORT)
                    .or_else(|| record_value(names::ACCEPTD_LISTENER_PORT)),
            ),
            &queue.map_or_else(
                || "-".to_owned(),
                |nanos| format!("{}.{:03}", nanos / 1_000_000, nanos / 1_000 % 1_000),
            ),
            &result,
        ],
    )
}

/// The name that the kernel has for a process, which `--comm` compares: at most 15 bytes.
fn comm(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(MAX_COMM_BYTES));
    name
}

/// The last column: the file descriptor or the error of an accept; the name, and the error if there is one,
/// of any other event.
fn result(event: &str, error: Option<String>, fd: String) -> String {
    match (event, error) {
        (names::EVENT_ACCEPTD_SOCKET_ACCEPT, None) => fd,
        (names::EVENT_ACCEPTD_SOCKET_ACCEPT, Some(error)) => format!("-{error}"),
        (other, error) => {
            let name = sanitize(other.rsplit('.').next().unwrap_or(other));
            error.map_or_else(|| name.clone(), |error| format!("{name} -{error}"))
        }
    }
}

fn columns(
    out: &mut impl Write,
    [time, pid, comm, ip, raddr, rport, laddr, lport, queue, ret]: [&str; 10],
) -> io::Result<()> {
    writeln!(
        out,
        "{time:<12} {pid:<7} {comm:<15} {ip:<2} {raddr:<15} {rport:<5} {laddr:<15} {lport:<5} {queue:<9} {ret}"
    )
}

fn time(unix_nanos: u64, zone: &TimeZone, format: &str) -> String {
    let time = Timestamp::from_nanosecond(i128::from(unix_nanos)).unwrap_or_default();
    time.to_zoned_datetime(zone.clone()).strftime(format).to_string()
}
