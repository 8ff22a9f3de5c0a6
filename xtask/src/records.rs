//! Log records as a Collector's file exporter and `acceptd receive --output otlp-json` write them: one request of
//! OTLP in JSON on each line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, Read, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context, Result};
use serde::Deserialize;

/// One log record with the Resource that it arrived under. Values are kept as text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) event_name: String,
    pub(crate) body: String,
    /// Of the connection's trace and its root; empty without one. Hexadecimal, as OTLP's JSON has it.
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    resource: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
}

impl Record {
    /// Whether a connection was accepted, or was not.
    pub(crate) fn is_accept(&self) -> bool {
        self.event_name == "acceptd.socket.accept"
    }

    /// An attribute of the Resource; empty without it.
    pub(crate) fn resource(&self, key: &str) -> &str {
        self.resource.get(key).map_or("", String::as_str)
    }

    /// An attribute of the record; empty without it.
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

/// Hands out the records of a whole file, one request of it in memory at a time.
pub(crate) fn each(file: impl BufRead, mut see: impl FnMut(Record)) -> Result<()> {
    for line in file.split(b'\n') {
        parse(&line?)?.into_iter().for_each(&mut see);
    }
    Ok(())
}

/// The records of one request.
fn parse(line: &[u8]) -> Result<Vec<Record>> {
    let request: Request = serde_json::from_slice(line).context("a line is not a request of OTLP in JSON")?;
    let mut records = Vec::new();
    for one in request.resource_logs {
        let resource = texts(one.resource.attributes);
        for record in one.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            records.push(Record {
                event_name: record.event_name,
                body: record.body.map(Value::into_text).unwrap_or_default(),
                trace_id: record.trace_id,
                span_id: record.span_id,
                resource: resource.clone(),
                attributes: texts(record.attributes),
            });
        }
    }
    Ok(records)
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|one| (one.key, one.value.map(Value::into_text).unwrap_or_default())).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs {
    #[serde(default)]
    resource: Resource,
    #[serde(default)]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Deserialize, Default)]
struct Resource {
    #[serde(default)]
    attributes: Vec<KeyValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs {
    #[serde(default)]
    log_records: Vec<LogRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogRecord {
    #[serde(default)]
    event_name: String,
    body: Option<Value>,
    #[serde(default)]
    trace_id: String,
    #[serde(default)]
    span_id: String,
    #[serde(default)]
    attributes: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    value: Option<Value>,
}

/// `AnyValue`: its JSON is an object with one key, named after the type.
#[derive(Deserialize)]
struct Value(BTreeMap<String, serde_json::Value>);

impl Value {
    /// Text as it is, numbers in decimal whether JSON has them as numbers or (64 bits) as strings.
    fn into_text(self) -> String {
        match self.0.into_values().next() {
            Some(serde_json::Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::Tail;

    const LINE: &str = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"process.pid","value":{"intValue":"812"}}]},
        "scopeLogs":[{"scope":{},"logRecords":[{"eventName":"acceptd.socket.accept","traceId":"0a1b","spanId":"","body":{"stringValue":"a line"},
        "attributes":[{"key":"acceptd.socket.mptcp","value":{"boolValue":true}},{"key":"p","value":{"intValue":80}}]}]}]}]}"#;

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
    fn what_is_not_otlp_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "no json").unwrap();
        assert!(Tail::new(file.path().to_path_buf()).read().is_err());
    }
}
