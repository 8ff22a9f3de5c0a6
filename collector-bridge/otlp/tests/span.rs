//! Spans as opentelemetry-proto decodes them.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a test's helpers fail the test")]

use acceptd_otlp::{
    Attribute, BatchBuilder, BatchLimits, Details, EncodedResource, Endpoint, Host, Process, Profile, Push,
    Said, Signal, Span, SpanKind, Threshold, Value, encode_span,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value,
    trace::v1::{
        status::StatusCode,
        {self as proto},
    },
};
use prost::Message as _;

fn part() -> Span<'static> {
    let mut span = Span {
        trace_id: [7; 16],
        span_id: [8; 8],
        parent: Some([9; 8]),
        name: "accept queue",
        kind: SpanKind::Internal,
        start_unix_nano: 1_700_000_000_000_000_000,
        end_unix_nano: 1_700_000_000_300_000_000,
        threshold: Some(Threshold(0xfd_70a3_d70a_3d71)),
        failed: false,
        attributes: Vec::new(),
    };
    span.add(Attribute::QueueTime, Some(Value::Int(300_000_000)));
    let client = Endpoint::Ip { addr: "2001:db8::1".parse().expect("an address"), port: 51_514 };
    span.add_endpoint(Attribute::ClientAddress, Attribute::ClientPort, Some(client));
    span.add_endpoint(Attribute::ServerAddress, Attribute::ServerPort, None);
    span
}

fn profile(exclude: &[&str]) -> Profile {
    let exclude: Vec<String> = exclude.iter().map(|name| (*name).to_owned()).collect();
    Profile::new(false, &[], &exclude, false, 64).expect("known names")
}

fn decoded(span: &Span<'_>, profile: &Profile) -> proto::Span {
    let mut bytes = Vec::new();
    encode_span(&mut bytes, span, profile);
    proto::Span::decode(&bytes[..]).expect("a span")
}

#[test]
fn a_part() {
    let span = decoded(&part(), &profile(&[]));
    assert_eq!((span.trace_id, span.span_id, span.parent_span_id), (vec![7; 16], vec![8; 8], vec![9; 8]));
    assert_eq!((span.name.as_str(), span.kind), ("accept queue", 1));
    assert_eq!(span.start_time_unix_nano, 1_700_000_000_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_700_000_000_300_000_000);
    assert_eq!((span.trace_state.as_str(), span.flags, span.status), ("ot=th:fd70a3d70a3d71", 0x103, None));
    let attributes: Vec<_> = span
        .attributes
        .into_iter()
        .map(|one| (one.key, one.value.and_then(|value| value.value).expect("a value")))
        .collect();
    assert_eq!(
        attributes,
        [
            ("acceptd.accept.queue_time_ns".to_owned(), any_value::Value::IntValue(300_000_000)),
            ("client.address".to_owned(), any_value::Value::StringValue("2001:db8::1".to_owned())),
            ("client.port".to_owned(), any_value::Value::IntValue(51_514)),
        ]
    );
}

#[test]
fn a_root_that_failed() {
    let root = Span { parent: None, kind: SpanKind::Server, threshold: None, failed: true, ..part() };
    let span = decoded(&root, &profile(&["client.port"]));
    assert_eq!((span.parent_span_id.len(), span.kind, span.flags), (0, 2, 0x3));
    assert_eq!(span.trace_state, "");
    assert_eq!(span.status.map(|status| status.code), Some(StatusCode::Error.into()));
    assert!(!span.attributes.iter().any(|attribute| attribute.key == "client.port"));
}

/// Whatever the clocks did.
#[test]
fn none_ends_before_it_begins() {
    let span = decoded(&Span { end_unix_nano: 5, ..part() }, &profile(&[]));
    assert_eq!(span.start_time_unix_nano, span.end_time_unix_nano);
}

#[test]
fn a_request_of_spans() {
    let process = Process {
        pid: 812,
        creation_time: None,
        executable_name: b"nginx".to_vec(),
        executable_path: None,
        user_id: 33,
        real_user_id: None,
        owner: None,
        kernel_thread: false,
        container_id: None,
        pod_uid: None,
        unit: None,
        details: Details::default(),
    };
    let host = Host { id: None, name: "here".to_owned(), arch: "amd64" };
    let said = Said { by_itself: &std::collections::BTreeMap::new(), by_the_operator: &[] };
    let resource = EncodedResource::of_process(&host, &process, said, 64);
    let limits = BatchLimits { max_records: 10, max_bytes: 1 << 20 };
    let mut builder = BatchBuilder::new(Signal::Traces, limits);
    for _ in 0..2 {
        let pushed = builder.push(1, &resource, |out| encode_span(out, &part(), &profile(&[])));
        assert!(matches!(pushed, Push::Added));
    }
    let batch = builder.seal().expect("two spans");
    assert_eq!((batch.signal, batch.records), (Signal::Traces, 2));
    let request = ExportTraceServiceRequest::decode(batch.request.clone()).expect("a request of traces");
    let of_process = &request.resource_spans[0];
    assert_eq!(of_process.scope_spans[0].spans, vec![decoded(&part(), &profile(&[])); 2]);
    assert_eq!(of_process.scope_spans[0].scope.as_ref().map(|scope| scope.name.as_str()), Some("acceptd"));
    let (first, second) = batch.split().expect("two halves");
    assert_eq!((first.records, second.records), (1, 1));
}
