//! Golden requests: the bytes that go to a Collector are exactly those in `tests/golden`. A change of the
//! wire format is deliberate only if its commit changes these files.
//!
//! `UPDATE_GOLDEN=1 cargo test -p acceptd-otlp --test golden` writes them anew. The version in the schema
//! URL is replaced by `VERSION` before the comparison, since it follows the semantic conventions.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use acceptd_otlp::{
    Accept, Attribute, AttributeFilter, Batch, BatchBuilder, BatchLimits, DeclaredAttributes,
    EncodedResource, Event, Host, NetworkType, Process, ProcessDetails, Push, RecordUid, Signal,
    SocketEndpoint, Span, SpanKind, Syscall, TcpHandshake, Threshold, Transport, Value, encode_accept,
    encode_event, encode_span,
    names::{self, SCHEMA_URL},
};

fn filter(full: bool) -> AttributeFilter {
    AttributeFilter::new(full, &[], &[], true, 256).expect("no names")
}

fn at(address: &str, port: u16) -> SocketEndpoint<'static> {
    SocketEndpoint::Ip { addr: address.parse().expect("an address"), port }
}

/// A successful accept with every field.
fn tcp() -> Accept<'static> {
    Accept {
        time_unix_nano: 1_700_000_000_123_456_789,
        observed_time_unix_nano: 1_700_000_000_123_999_999,
        uid: RecordUid { epoch: 0x0123_4567_89AB_CDEF, cpu: 3, sequence: 42 },
        trace_id: Some([7; 16]),
        span_id: Some([9; 8]),
        sampled: true,
        peer_pid: Some(4_321),
        peer_executable: b"curl",
        errno: None,
        transport: Transport::Tcp,
        network_type: Some(NetworkType::Ipv4),
        v4_mapped: true,
        mptcp: true,
        local: Some(at("10.1.2.80", 443)),
        peer: Some(at("10.0.0.7", 51_514)),
        listener: Some(at("::", 443)),
        socket_cookie: Some(4_660),
        listener_cookie: Some(u64::MAX),
        socket_inode: Some(483_920),
        listener_inode: Some(28_310),
        socket_fd: Some(13),
        listener_fd: Some(6),
        backlog_length: Some(0),
        backlog_limit: Some(511),
        queue_time_ns: Some(1_234_567),
        blocked_time_ns: Some(50_000_000),
        syscall: Syscall::Accept4,
        verified: true,
        self_accept: true,
        adjusted_count: Some(17),
        thread_id: 813,
        thread_name: b"worker",
        netns_inode: 4_026_531_840,
        handshake: Some(TcpHandshake {
            time_ns: Some(310_000),
            deferred_time_ns: None,
            rtt_ns: Some(305_125),
            synack_retransmits: 1,
        }),
        capture_tier: 1,
        process_name: b"nginx",
        pid: 812,
    }
}

/// A successful accept on an abstract UNIX socket through io_uring, with few fields.
fn unix() -> Accept<'static> {
    Accept {
        transport: Transport::Unix,
        network_type: None,
        v4_mapped: false,
        mptcp: false,
        local: Some(SocketEndpoint::Unix(b"\0abstract")),
        peer: None,
        listener: Some(SocketEndpoint::Unix(b"/run/a.sock")),
        queue_time_ns: None,
        blocked_time_ns: None,
        handshake: None,
        syscall: Syscall::IoUring,
        verified: false,
        self_accept: false,
        adjusted_count: None,
        trace_id: None,
        span_id: None,
        sampled: false,
        socket_fd: None,
        listener_fd: None,
        ..tcp()
    }
}

/// A failed accept: EMFILE.
fn failed() -> Accept<'static> {
    Accept { errno: Some(24), local: None, peer: None, socket_cookie: None, socket_inode: None, ..unix() }
}

fn overflow() -> Event<'static> {
    let listener = at("2001:db8::1", 443);
    let mut event = Event {
        name: names::EVENT_ACCEPTD_LISTENER_OVERFLOW,
        time_unix_nano: 5,
        observed_time_unix_nano: 6,
        uid: RecordUid { epoch: 1, cpu: u16::MAX, sequence: 2 },
        severity: 17,
        body: vec![
            Value::Raw(b"nginx"),
            Value::Text(" lost "),
            Value::Int(3),
            Value::Text(" of "),
            Value::Address(listener),
            Value::Text(" in "),
            Value::Milliseconds(1_250_000),
        ],
        attributes: Vec::new(),
    };
    event.add_endpoint(Attribute::ListenerAddress, Attribute::ListenerPort, Some(listener));
    event.add(Attribute::OverflowCount, Some(Value::Int(3)));
    event.add(Attribute::ListenerCookie, Some(Value::Id(u64::MAX)));
    event.add(Attribute::OwnerUnknown, Some(Value::Flag(true)));
    event.add(Attribute::ThreadName, Some(Value::Raw(b"worker")));
    event
}

fn span() -> Span<'static> {
    let mut span = Span {
        trace_id: [7; 16],
        span_id: [8; 8],
        parent: Some([9; 8]),
        name: "accept queue",
        kind: SpanKind::Internal,
        start_unix_nano: 1_700_000_000_000_000_000,
        end_unix_nano: 1_700_000_000_300_000_000,
        threshold: Some(Threshold(0xfd_70a3_d70a_3d71)),
        failed: true,
        attributes: Vec::new(),
    };
    span.add(Attribute::QueueTime, Some(Value::Int(300_000_000)));
    span.add_endpoint(Attribute::ClientAddress, Attribute::ClientPort, Some(at("2001:db8::1", 51_514)));
    span
}

fn resource() -> EncodedResource {
    let host =
        Host { id: Some("fdbf79e8af94cb7f9e8df36789187052".into()), name: "web-1".into(), arch: "amd64" };
    let process = Process {
        pid: 812,
        creation_time: Some("2026-11-24T00:00:00.000Z".into()),
        executable_name: b"nginx".to_vec(),
        executable_path: Some(b"/usr/sbin/nginx".to_vec()),
        title: None,
        user_id: 33,
        real_user_id: Some(0),
        owner: Some("www-data".into()),
        kernel_thread: false,
        container_id: Some("0f".repeat(32)),
        pod_uid: Some("6b5a1a0c-5d0c-4a7e-8f2e-000000000001".into()),
        unit: Some("nginx".into()),
        details: ProcessDetails {
            command: Some(b"nginx".to_vec()),
            command_args: vec![b"nginx".to_vec(), b"-g".to_vec(), b"daemon off;".to_vec()],
            args_count: Some(3),
            parent_pid: Some(1),
        },
    };
    let declared = BTreeMap::from([("service.version".to_owned(), "1.2.3".to_owned())]);
    let by_operator = [("deployment.environment.name".to_owned(), "prod".to_owned())];
    EncodedResource::for_process(
        &host,
        &process,
        DeclaredAttributes { by_process: &declared, by_operator: &by_operator },
        256,
    )
}

/// One request with two resources.
fn request(signal: Signal, encode: impl Fn(&mut Vec<u8>)) -> Batch {
    let mut builder = BatchBuilder::new(signal, BatchLimits { max_records: 10, max_bytes: 1 << 20 });
    for key in [1, 2, 1] {
        assert!(matches!(builder.push(key, &resource(), &encode), Push::Added));
    }
    builder.seal().expect("three records")
}

/// The bytes as hexadecimal text, 32 a line, with the version of the semantic conventions replaced.
fn dump(request: &[u8]) -> String {
    let version = SCHEMA_URL.rsplit('/').next().expect("a version").as_bytes();
    let mut bytes = request.to_vec();
    while let Some(at) = bytes.windows(version.len()).position(|window| window == version) {
        bytes.splice(at..at + version.len(), *b"VERSION");
    }
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

fn check(name: &str, request: &Batch) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let bytes = dump(&request.request);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &bytes).expect("a writable checkout");
    }
    let golden = fs::read_to_string(&path).expect("a golden request");
    assert_eq!(bytes, golden, "{name}: the bytes on the wire changed");
}

#[test]
fn accepts_with_the_standard_attributes() {
    for (name, accept) in [("tcp", tcp()), ("unix", unix()), ("failed", failed())] {
        check(
            &format!("{name}-standard"),
            &request(Signal::Logs, |out| encode_accept(out, &accept, &filter(false))),
        );
    }
}

#[test]
fn accepts_with_all_attributes() {
    for (name, accept) in [("tcp", tcp()), ("unix", unix()), ("failed", failed())] {
        check(
            &format!("{name}-full"),
            &request(Signal::Logs, |out| encode_accept(out, &accept, &filter(true))),
        );
    }
}

#[test]
fn an_event() {
    check("overflow", &request(Signal::Logs, |out| encode_event(out, &overflow(), &filter(true))));
}

#[test]
fn a_span() {
    check("span", &request(Signal::Traces, |out| encode_span(out, &span(), &filter(true))));
}
