//! Log records as a Collector's file exporter and `acceptd receive --output otlp-json` write them: one OTLP
//! request in JSON on each line.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{BufRead, Read, Seek, SeekFrom},
    path::PathBuf,
};

use acceptd_otlp::names;
use anyhow::{Context, Result};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use serde_json::{Value as Json, json};

/// One log record with the Resource that it arrived under. Values are kept as text, since most suites compare
/// them with what a server printed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) event_name: String,
    pub(crate) body: String,
    /// The trace of the connection, in hexadecimal; empty without one.
    pub(crate) trace_id: String,
    /// The root span of that trace, likewise.
    pub(crate) span_id: String,
    resource: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
}

impl Record {
    /// Whether this is the record of an `accept()`, successful or not.
    pub(crate) fn is_accept(&self) -> bool {
        self.event_name == names::EVENT_ACCEPTD_SOCKET_ACCEPT
    }

    /// A record for a test of a judgement.
    #[cfg(test)]
    pub(crate) fn of_test(event_name: &str, resource: &[(&str, &str)], attributes: &[(&str, &str)]) -> Self {
        let owned = |all: &[(&str, &str)]| {
            all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let (resource, attributes) = (owned(resource), owned(attributes));
        Self { event_name: event_name.to_owned(), resource, attributes, ..Self::default() }
    }

    /// An attribute of the Resource; empty if it is absent.
    pub(crate) fn resource(&self, key: &str) -> &str {
        self.resource.get(key).map_or("", String::as_str)
    }

    /// An attribute of the record; empty if it is absent.
    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// A file that another process appends to.
pub(crate) struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    /// Reads from the beginning; the file need not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// The records of the lines that were completed since the last call.
    pub(crate) fn read(&mut self) -> Result<Vec<Record>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        let about = || format!("reading {}", self.path.display());
        file.seek(SeekFrom::Start(self.offset)).with_context(about)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(about)?;
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.offset += u64::try_from(complete)?;
        let mut records = Vec::new();
        for line in bytes[..complete].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            records.extend(parse(line).with_context(about)?);
        }
        Ok(records)
    }
}

/// Passes each record of a whole file to `see`. Only one request is in memory at a time.
pub(crate) fn for_each(file: impl BufRead, mut see: impl FnMut(Record)) -> Result<()> {
    for line in file.split(b'\n') {
        parse(&line?)?.into_iter().for_each(&mut see);
    }
    Ok(())
}

/// Parses one export request.
pub(crate) fn parse_request(line: &[u8]) -> Result<ExportLogsServiceRequest> {
    let about = "a line is not an OTLP request in JSON";
    let mut request: Json = serde_json::from_slice(line).context(about)?;
    add_omitted_members(&mut request);
    serde_json::from_value(request).context(about)
}

/// Adds the empty lists and strings that the Collector omits. opentelemetry-proto has defaults for the
/// members of most messages, but not for those of `EntityRef`, `ArrayValue` and `KeyValueList`.
pub(crate) fn add_omitted_members(json: &mut Json) {
    match json {
        Json::Array(items) => items.iter_mut().for_each(add_omitted_members),
        Json::Object(members) => {
            for (key, member) in members {
                match (key.as_str(), member.as_array_mut()) {
                    ("arrayValue" | "kvlistValue", _) => add_member(member, "values", json!([])),
                    ("entityRefs", Some(entities)) => {
                        for entity in entities {
                            add_member(entity, "idKeys", json!([]));
                            add_member(entity, "descriptionKeys", json!([]));
                            add_member(entity, "schemaUrl", json!(""));
                        }
                    }
                    _ => {}
                }
                add_omitted_members(member);
            }
        }
        _ => {}
    }
}

fn add_member(json: &mut Json, key: &str, default: Json) {
    if let Some(members) = json.as_object_mut() {
        members.entry(key).or_insert(default);
    }
}

/// The records of one request.
fn parse(line: &[u8]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for resource_logs in parse_request(line)?.resource_logs {
        let resource = texts(resource_logs.resource.unwrap_or_default().attributes);
        for record in resource_logs.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            records.push(Record {
                event_name: record.event_name,
                body: text(record.body),
                trace_id: hexadecimal(&record.trace_id),
                span_id: hexadecimal(&record.span_id),
                resource: resource.clone(),
                attributes: texts(record.attributes),
            });
        }
    }
    Ok(records)
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

/// A value as text: numbers in decimal, `true` or `false`; lists and maps as JSON; empty without a value.
pub(crate) fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => serde_json::to_string(&other).unwrap_or_default(),
    }
}

/// A trace's or span's id, as OTLP's JSON writes it.
pub(crate) fn hexadecimal(id: &[u8]) -> String {
    id.iter().fold(String::with_capacity(2 * id.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::Tail;

    const LINE: &str = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"process.pid","value":{"intValue":"812"}},
        {"key":"process.command_args","value":{"arrayValue":{}}}],"entityRefs":[{"type":"process","idKeys":["process.pid"]}]},
        "scopeLogs":[{"scope":{},"logRecords":[{"eventName":"acceptd.socket.accept","traceId":"0a1b","spanId":"",
        "body":{"stringValue":"a line"},"attributes":[{"key":"acceptd.socket.mptcp","value":{"boolValue":true}},
        {"key":"p","value":{"intValue":80}}]}]}]}]}"#;

    #[test]
    fn only_complete_lines_are_read_and_each_once() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let line = LINE.replace('\n', " ");
        let mut tail = Tail::new(file.path().to_path_buf());
        write!(file, "{line}\n{}", &line[..20]).unwrap();
        let records = tail.read().unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].event_name, "acceptd.socket.accept");
        assert_eq!(records[0].body, "a line");
        assert_eq!((records[0].trace_id.as_str(), records[0].span_id.as_str()), ("0a1b", ""));
        assert_eq!(records[0].resource("process.pid"), "812");
        assert_eq!(records[0].attribute("acceptd.socket.mptcp"), "true");
        assert_eq!(records[0].attribute("p"), "80");
        assert_eq!(records[0].attribute("absent"), "");
        writeln!(file, "{}", &line[20..]).unwrap();
        assert_eq!(tail.read().unwrap().len(), 1);
        assert!(tail.read().unwrap().is_empty());
    }

    #[test]
    fn a_line_that_is_not_otlp_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "no json").unwrap();
        assert!(Tail::new(file.path().to_path_buf()).read().is_err());
    }
}
