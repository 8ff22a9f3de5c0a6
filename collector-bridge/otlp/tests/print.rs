//! The printer: its formats, and that no sender can control the terminal.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

use acceptd_otlp::{PrintFormat, Printer, Received};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, LogsData, ResourceLogs, ScopeLogs},
    resource::v1::Resource,
};
use proptest::prelude::*;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn request(resource: Vec<KeyValue>, attributes: Vec<KeyValue>) -> Received {
    let record = LogRecord {
        time_unix_nano: 1_700_000_000_123_456_789,
        event_name: "acceptd.socket.accept".to_owned(),
        severity_number: 9,
        body: Some(AnyValue { value: Some(Value::StringValue("one line".to_owned())) }),
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        attributes,
        ..LogRecord::default()
    };
    let resource = Resource { attributes: resource, ..Resource::default() };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    let resource_logs =
        vec![ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() }];
    Received::Logs(ExportLogsServiceRequest { resource_logs })
}

fn accept() -> Received {
    let resource =
        vec![attribute("process.pid", Value::IntValue(812)), text("process.executable.name", r"we\x1brd")];
    let attributes = vec![
        text("network.type", "ipv4"),
        text("network.peer.address", "10.0.0.7"),
        attribute("network.peer.port", Value::IntValue(51514)),
        text("network.local.address", "10.1.2.80"),
        attribute("network.local.port", Value::IntValue(443)),
        attribute("acceptd.accept.queue_time_ns", Value::IntValue(1_234_567)),
        attribute("acceptd.socket.fd", Value::IntValue(13)),
    ];
    request(resource, attributes)
}

/// An event with the attributes of [`accept`] and another name.
fn event(name: &str) -> Received {
    let Received::Logs(mut logs) = accept() else { return accept() };
    name.clone_into(&mut logs.resource_logs[0].scope_logs[0].log_records[0].event_name);
    Received::Logs(logs)
}

fn printed(output: PrintFormat, header: bool, received: &Received) -> String {
    let mut out = Vec::new();
    Printer::new(output, header).print(&mut out, received).expect("a vector takes everything");
    String::from_utf8(out).expect("UTF-8")
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The column is what `--comm` compares: the kernel's name of the process, at most 15 bytes.
#[test]
fn the_column_comm_is_the_comm() {
    let comm = |resource: &[(&str, &str)]| {
        let resource = resource.iter().map(|(key, value)| text(key, value)).collect();
        let line = printed(PrintFormat::Columns, false, &request(resource, Vec::new()));
        words(&line)[2].to_owned()
    };
    let executable = ("process.executable.name", "redis-check-rdb");
    assert_eq!(comm(&[executable, ("process.title", "redis-server")]), "redis-server");
    assert_eq!(comm(&[executable]), "redis-check-rdb");
    assert_eq!(comm(&[("process.executable.name", "systemd-resolved")]), "systemd-resolve");
}

#[test]
fn columns_are_those_of_tcpaccept() {
    let shown = printed(PrintFormat::Columns, true, &accept());
    let [header, line] = shown.lines().collect::<Vec<_>>()[..] else { panic!("two lines: {shown}") };
    assert_eq!(
        words(header),
        ["TIME", "PID", "COMM", "IP", "RADDR", "RPORT", "LADDR", "LPORT", "QUEUE_MS", "RET"]
    );
    assert_eq!(
        words(line)[1..],
        ["812", r"we\x1brd", "4", "10.0.0.7", "51514", "10.1.2.80", "443", "1.234", "13"]
    );
    assert_eq!(printed(PrintFormat::Columns, false, &accept()).lines().count(), 1);
}

#[test]
fn a_failure_shows_its_error_and_the_listener() {
    let attributes = vec![
        text("error.type", "EMFILE"),
        text("acceptd.listener.address", "0.0.0.0"),
        attribute("acceptd.listener.port", Value::IntValue(443)),
    ];
    let shown = printed(PrintFormat::Columns, false, &request(Vec::new(), attributes));
    assert_eq!(words(&shown)[1..], ["-", "-", "-", "-", "-", "0.0.0.0", "443", "-", "-EMFILE"]);
}

#[test]
fn json_is_one_flat_object_a_record() {
    let shown = printed(PrintFormat::Json, true, &accept());
    let json: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(json["process.pid"], 812);
    assert_eq!(json["network.peer.port"], 51514);
    assert_eq!(json["event_name"], "acceptd.socket.accept");
    assert_eq!(json["trace_id"], "ab".repeat(16));
    assert_eq!(json["body"], "one line");
    assert!(
        json.as_object().expect("an object").values().all(|value| !value.is_object() && !value.is_array())
    );
}

#[test]
fn otlp_json_is_the_file_format() {
    let Received::Logs(request) = accept() else { panic!("logs") };
    let shown = printed(PrintFormat::OtlpJson, true, &accept());
    assert_eq!(shown.lines().count(), 1);
    let record = &serde_json::from_str::<serde_json::Value>(&shown).expect("JSON")["resourceLogs"][0]["scopeLogs"]
        [0]["logRecords"][0];
    assert_eq!(record["traceId"], "ab".repeat(16));
    assert_eq!(record["spanId"], "cd".repeat(8));
    assert_eq!(record["severityNumber"], 9);
    assert_eq!(record["timeUnixNano"], "1700000000123456789");
    let back: LogsData = serde_json::from_str(&shown).expect("LogsData");
    assert_eq!(back.resource_logs, request.resource_logs);
}

proptest! {
    #[test]
    fn no_sender_can_drive_the_terminal_or_add_a_line(key in "\\PC*|(?s).*", value in "(?s).{0,60}|[\u{0}-\u{9f}]{0,40}") {
        let attributes = vec![text(&key, &value), text("network.peer.address", &value)];
        let received = request(vec![text("process.executable.name", &value)], attributes);
        for output in [PrintFormat::Columns, PrintFormat::Json, PrintFormat::OtlpJson] {
            let shown = printed(output, false, &received);
            let line = shown.strip_suffix('\n').expect("a line");
            prop_assert!(!line.contains(char::is_control), "{:?}: {:?}", output, line);
            if output != PrintFormat::Columns {
                let json: serde_json::Value = serde_json::from_str(line).expect("still JSON");
                let read = match output {
                    PrintFormat::Json => json["process.executable.name"].clone(),
                    _ => json["resourceLogs"][0]["resource"]["attributes"][0]["value"]["stringValue"].clone(),
                };
                if key != "process.executable.name" {
                    prop_assert_eq!(read.as_str(), Some(value.as_str()));
                }
            }
        }
    }
}

#[test]
fn another_event_is_named_in_the_last_column() {
    assert!(printed(PrintFormat::Columns, false, &accept()).ends_with(" 13\n"));
    assert!(printed(PrintFormat::Columns, false, &event("acceptd.socket.listen")).ends_with(" listen\n"));
    let hostile = printed(PrintFormat::Columns, false, &event("x.\u{1b}[2J"));
    assert!(!hostile.contains('\u{1b}'), "{hostile:?}");
}
