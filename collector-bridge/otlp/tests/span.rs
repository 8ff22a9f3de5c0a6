//! The hand-written encoder of spans, decoded with opentelemetry-proto.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

use acceptd_otlp::{
    Attribute, AttributeFilter, BatchBuilder, BatchLimits, DeclaredAttributes, EncodedResource, Host,
    Process, ProcessDetails, Push, Signal, SocketEndpoint, Span, SpanKind, Threshold, Value, encode_span,
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

fn child() -> Span<'static> {
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
    let client = SocketEndpoint::Ip { addr: "2001:db8::1".parse().expect("an address"), port: 51_514 };
    span.add_endpoint(Attribute::ClientAddress, Attribute::ClientPort, Some(client));
    span.add_endpoint(Attribute::ServerAddress, Attribute::ServerPort, None);
    span
}

fn filter(exclude: &[&str]) -> AttributeFilter {
    let exclude: Vec<String> = exclude.iter().map(|name| (*name).to_owned()).collect();
    AttributeFilter::new(false, &[], &exclude, false, 64).expect("known names")
}

fn decoded(span: &Span<'_>, filter: &AttributeFilter) -> proto::Span {
    let mut bytes = Vec::new();
    encode_span(&mut bytes, span, filter);
    proto::Span::decode(&bytes[..]).expect("a span")
}

#[test]
fn a_child_span() {
    let span = decoded(&child(), &filter(&[]));
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
fn a_root_span_that_failed() {
    let root = Span { parent: None, kind: SpanKind::Server, threshold: None, failed: true, ..child() };
    let span = decoded(&root, &filter(&["client.port"]));
    assert_eq!((span.parent_span_id.len(), span.kind, span.flags), (0, 2, 0x3));
    assert_eq!(span.trace_state, "");
    assert_eq!(span.status.map(|status| status.code), Some(StatusCode::Error.into()));
    assert!(!span.attributes.iter().any(|attribute| attribute.key == "client.port"));
}

/// The start and the end may come from different clocks.
#[test]
fn no_span_ends_before_its_start() {
    let span = decoded(&Span { end_unix_nano: 5, ..child() }, &filter(&[]));
    assert_eq!(span.start_time_unix_nano, span.end_time_unix_nano);
}

#[test]
fn a_request_of_spans() {
    let process = Process {
        pid: 812,
        creation_time: None,
        executable_name: b"nginx".to_vec(),
        executable_path: None,
        title: None,
        user_id: 33,
        real_user_id: None,
        owner: None,
        kernel_thread: false,
        container_id: None,
        pod_uid: None,
        unit: None,
        details: ProcessDetails::default(),
    };
    let host = Host { id: None, name: "here".to_owned(), arch: "amd64" };
    let declared = DeclaredAttributes { by_process: &std::collections::BTreeMap::new(), by_operator: &[] };
    let resource = EncodedResource::for_process(&host, &process, declared, 64);
    let limits = BatchLimits { max_records: 10, max_bytes: 1 << 20 };
    let mut builder = BatchBuilder::new(Signal::Traces, limits);
    for _ in 0..2 {
        let pushed = builder.push(1, &resource, |out| encode_span(out, &child(), &filter(&[])));
        assert!(matches!(pushed, Push::Added));
    }
    let batch = builder.seal().expect("two spans");
    assert_eq!((batch.signal, batch.records), (Signal::Traces, 2));
    let request = ExportTraceServiceRequest::decode(batch.request.clone()).expect("a request of traces");
    let resource_spans = &request.resource_spans[0];
    assert_eq!(resource_spans.scope_spans[0].spans, vec![decoded(&child(), &filter(&[])); 2]);
    assert_eq!(
        resource_spans.scope_spans[0].scope.as_ref().map(|scope| scope.name.as_str()),
        Some("acceptd")
    );
    let (first, second) = batch.split().expect("two halves");
    assert_eq!((first.records, second.records), (1, 1));
}
