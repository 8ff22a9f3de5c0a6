//! `acceptd replay` as a user runs it: the requests in the files arrive, and unreadable ones are reported on
//! stderr.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use acceptd_otlp::{Printer, Received, Signal, receiver};
use acceptd_spool::{Frame, Order, Spool, SpoolConfig, SyncPolicy};
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;

type Arrived = Arc<Mutex<Vec<Received>>>;

fn receive() -> (SocketAddr, Arrived) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let arrived = Arrived::default();
    let to = Arc::clone(&arrived);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let take = move |received| {
            to.lock().expect("no panic").push(received);
            Ok(())
        };
        runtime.block_on(receiver::serve(listener, take, std::future::pending())).expect("it serves");
    });
    (address, arrived)
}

fn logs(numbers: impl IntoIterator<Item = u64>) -> ExportLogsServiceRequest {
    let record =
        |number| LogRecord { time_unix_nano: number, severity_text: "x".repeat(40), ..LogRecord::default() };
    let log_records = numbers.into_iter().map(record).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }
}

fn traces() -> ExportTraceServiceRequest {
    let spans = vec![Span { name: "accept queue".to_owned(), ..Span::default() }];
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
    }
}

fn replay(endpoint: SocketAddr, flags: &[&str], files: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acceptd"));
    command.env_clear().args(["replay", "--config", "/dev/null", "--endpoint", &endpoint.to_string()]);
    command.args(flags).args(files).output().expect("the binary starts")
}

fn numbers(arrived: &Arrived) -> Vec<u64> {
    let arrived = arrived.lock().expect("no panic");
    let requests = arrived.iter().filter_map(|received| match received {
        Received::Logs(logs) => Some(logs),
        _ => None,
    });
    let scopes = requests.flat_map(|logs| &logs.resource_logs).flat_map(|logs| &logs.scope_logs);
    let mut numbers: Vec<_> =
        scopes.flat_map(|scope| &scope.log_records).map(|record| record.time_unix_nano).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn lines_of_otlp_json_arrive_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("all.jsonl");
    let mut text = Vec::new();
    let mut printer = Printer::new(acceptd_otlp::PrintFormat::OtlpJson, false);
    for received in [Received::Logs(logs(1..=3)), Received::Traces(traces()), Received::Logs(logs(4..=5))] {
        printer.print(&mut text, &received).expect("printed");
    }
    fs::write(&file, text).expect("written");
    let (address, arrived) = receive();
    let output = replay(address, &[], &[&file]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("6 records: 6 acknowledged, 0 rejected, 0 dropped"), "{stderr}");
    assert_eq!(numbers(&arrived), [1, 2, 3, 4, 5]);
    assert!(arrived.lock().expect("no panic").contains(&Received::Traces(traces())));
}

#[test]
fn unreadable_lines_are_reported_and_the_rest_arrives() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.jsonl");
    let good = serde_json::to_string(&logs([7])).expect("JSON");
    fs::write(
        &file,
        format!("{{\n\n{{\"a\":1}}\n{good}\n{{\"resourceLogs\":[{{\"scopeLogs\":3}}]}}\n{{\"resou"),
    )
    .expect("written");
    let (address, arrived) = receive();
    let output = replay(address, &[], &[&file]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for line in ["line 1: not JSON", "line 3: not OTLP", "line 5: not OTLP", "line 6: not JSON"] {
        assert!(stderr.contains(line), "{line}: {stderr}");
    }
    assert!(
        stderr.contains("1 records: 1 acknowledged") && stderr.contains("4 requests skipped"),
        "{stderr}"
    );
    assert_eq!(numbers(&arrived), [7]);

    let output = replay(address, &[], &[&folder.path().join("none")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("cannot read") && stderr.contains("No such file"), "{stderr}");
}

#[test]
fn segments_of_a_spool_arrive_in_requests_of_the_configured_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = SpoolConfig {
        folder: folder.path().to_owned(),
        max_bytes: 1 << 24,
        max_age: Duration::from_hours(1),
        sync: SyncPolicy::Never,
        order: Order::OldestFirst,
    };
    let (mut spool, _) = Spool::open(config).expect("a spool");
    let frame = |request: ExportLogsServiceRequest, records| Frame {
        kind: Signal::Logs.number(),
        records,
        body: request.encode_to_vec().into(),
    };
    spool.append(&frame(logs(1..=1000), 1000), 0).expect("appended");
    spool.append(&frame(logs(1001..=1010), 10), 0).expect("appended");
    spool.append(&Frame { kind: 99, records: 1, body: "newer".into() }, 0).expect("appended");
    spool.close().expect("closed");
    let segment = folder.path().join("0000000000000001.segment");
    let mut bytes = fs::read(&segment).expect("read");
    let (address, arrived) = receive();
    let output =
        replay(address, &["--set", "batch.max_bytes=16KiB", "--set", "queue.max_bytes=16KiB"], &[&segment]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("kind 99"), "{stderr}");
    assert_eq!(numbers(&arrived), (1..=1010).collect::<Vec<_>>());
    let largest = arrived.lock().expect("no panic").iter().map(Received::records).max();
    assert!(largest < Some(1000), "{largest:?}");

    // A byte in the body of the first frame.
    bytes[100] ^= 1;
    fs::write(&segment, bytes).expect("written");
    let (address, arrived) = receive();
    let output = replay(address, &[], &[&segment]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("are damaged"), "{stderr}");
    assert_eq!(numbers(&arrived), (1001..=1010).collect::<Vec<_>>());
}

#[test]
fn without_an_endpoint_the_message_names_the_flag() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acceptd"));
    let output =
        command.env_clear().args(["replay", "--config", "/dev/null", "x"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--endpoint"));
}
