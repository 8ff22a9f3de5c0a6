//! The hand-written encoder of accepts, decoded with opentelemetry-proto.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a helper that fails should fail its test")]

use std::{collections::BTreeMap, net::IpAddr};

use acceptd_otlp::{
    Accept, AttributeFilter, BatchBuilder, BatchLimits, DeclaredAttributes, EncodedResource, Host,
    NetworkType, Process, ProcessDetails, Push, RecordUid, Signal, SocketEndpoint, Syscall, TcpHandshake,
    Transport, encode_accept,
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use prost::Message as _;

const LIMIT: usize = 1024;

/// The attributes of a successful accept that only the full attribute profile has.
const FULL_ONLY: [&str; 14] = [
    "acceptd.tcp.deferred_time_ns",
    "acceptd.tcp.handshake_time_ns",
    "acceptd.tcp.rtt_ns",
    "acceptd.tcp.synack_retransmits",
    "acceptd.listener.address",
    "acceptd.listener.port",
    "acceptd.listener.cookie",
    "acceptd.listener.inode",
    "acceptd.socket.inode",
    "acceptd.netns.inode",
    "acceptd.thread.id",
    "acceptd.thread.name",
    "acceptd.accept.blocked_time_ns",
    "acceptd.capture.tier",
];

fn filter(full: bool) -> AttributeFilter {
    AttributeFilter::new(full, &[], &[], false, LIMIT).expect("no names")
}

fn at(address: &str, port: u16) -> SocketEndpoint<'static> {
    SocketEndpoint::Ip { addr: address.parse().expect("an address"), port }
}

fn nginx() -> Accept<'static> {
    Accept {
        time_unix_nano: 1_700_000_000_123_456_789,
        observed_time_unix_nano: 1_700_000_000_123_999_999,
        uid: RecordUid { epoch: 0x0123_4567_89AB_CDEF, cpu: 3, sequence: 42 },
        trace_id: Some([7; 16]),
        span_id: Some([9; 8]),
        sampled: true,
        peer_pid: None,
        peer_executable: &[],
        errno: None,
        transport: Transport::Tcp,
        network_type: Some(NetworkType::Ipv4),
        v4_mapped: false,
        mptcp: false,
        local: Some(at("10.1.2.80", 443)),
        peer: Some(at("10.0.0.7", 51514)),
        listener: Some(at("0.0.0.0", 443)),
        socket_cookie: Some(4660),
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
        self_accept: false,
        adjusted_count: None,
        thread_id: 813,
        thread_name: b"nginx",
        netns_inode: 4_026_531_840,
        handshake: Some(TcpHandshake {
            time_ns: Some(310_000),
            deferred_time_ns: Some(826_779_000),
            rtt_ns: Some(305_125),
            synack_retransmits: 1,
        }),
        capture_tier: 2,
        process_name: b"nginx",
        pid: 812,
    }
}

fn failed() -> Accept<'static> {
    Accept {
        errno: Some(24),
        trace_id: None,
        span_id: None,
        local: None,
        peer: None,
        socket_cookie: None,
        socket_inode: None,
        socket_fd: None,
        queue_time_ns: None,
        ..nginx()
    }
}

fn encode(accept: &Accept<'_>, filter: &AttributeFilter) -> LogRecord {
    let mut bytes = Vec::new();
    encode_accept(&mut bytes, accept, filter);
    LogRecord::decode(&bytes[..]).expect("a LogRecord")
}

fn body(record: &LogRecord) -> &str {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("the body is {other:?}"),
    }
}

/// Every text among the values, also in arrays.
fn texts(attributes: &[KeyValue]) -> Vec<&str> {
    let values = attributes.iter().filter_map(|attribute| attribute.value.as_ref()?.value.as_ref());
    values
        .flat_map(|value| match value {
            Value::ArrayValue(array) => array.values.iter().filter_map(|one| one.value.as_ref()).collect(),
            other => vec![other],
        })
        .filter_map(|value| match value {
            Value::StringValue(text) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// The attributes by key. Checks that every key is there once, and that every value is a string, an integer,
/// a boolean or an array.
fn flat(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let mut found = BTreeMap::new();
    for attribute in attributes {
        let text = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => format!("{text:?}"),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(flag)) => flag.to_string(),
            Some(Value::ArrayValue(_)) => texts(std::slice::from_ref(attribute)).join(" "),
            other => panic!("{} is {other:?}", attribute.key),
        };
        assert_eq!(found.insert(attribute.key.as_str(), text), None, "{} is there twice", attribute.key);
    }
    found
}

/// `key=value` of every attribute, sorted by key.
fn lines(record: &LogRecord) -> Vec<String> {
    flat(&record.attributes).into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

#[test]
fn golden_full_record() {
    let record = encode(&nginx(), &filter(true));
    assert_eq!(record.time_unix_nano, 1_700_000_000_123_456_789);
    assert_eq!(record.observed_time_unix_nano, 1_700_000_000_123_999_999);
    assert_eq!((record.severity_number, record.severity_text.as_str()), (9, ""));
    assert_eq!(record.event_name, "acceptd.socket.accept");
    assert_eq!((record.trace_id.as_slice(), record.span_id.as_slice()), (&[7; 16][..], &[9; 8][..]));
    assert_eq!((record.flags, record.dropped_attributes_count), (1, 0));
    assert_eq!(
        body(&record),
        "nginx[812] accepted tcp 10.0.0.7:51514 -> 10.1.2.80:443 after 1.2 ms in queue"
    );
    let expected = [
        "acceptd.accept.blocked_time_ns=50000000",
        "acceptd.accept.queue_time_ns=1234567",
        r#"acceptd.accept.syscall="accept4""#,
        "acceptd.capture.tier=2",
        r#"acceptd.listener.address="0.0.0.0""#,
        "acceptd.listener.backlog_length=0",
        "acceptd.listener.backlog_limit=511",
        r#"acceptd.listener.cookie="18446744073709551615""#,
        "acceptd.listener.fd=6",
        "acceptd.listener.inode=28310",
        "acceptd.listener.port=443",
        "acceptd.netns.inode=4026531840",
        r#"acceptd.socket.cookie="4660""#,
        "acceptd.socket.fd=13",
        "acceptd.socket.inode=483920",
        "acceptd.tcp.deferred_time_ns=826779000",
        "acceptd.tcp.handshake_time_ns=310000",
        "acceptd.tcp.rtt_ns=305125",
        "acceptd.tcp.synack_retransmits=1",
        "acceptd.thread.id=813",
        r#"acceptd.thread.name="nginx""#,
        r#"log.record.uid="0123456789ABCDEF-0003-00000000002A""#,
        r#"network.local.address="10.1.2.80""#,
        "network.local.port=443",
        r#"network.peer.address="10.0.0.7""#,
        "network.peer.port=51514",
        r#"network.transport="tcp""#,
        r#"network.type="ipv4""#,
    ];
    assert_eq!(lines(&record), expected);
}

#[test]
fn golden_standard_record_is_the_full_one_without_the_full_only_attributes() {
    let full = encode(&nginx(), &filter(true));
    let standard = encode(&nginx(), &filter(false));
    let mut expected = flat(&full.attributes);
    expected.retain(|key, _| !FULL_ONLY.contains(key));
    assert_eq!(flat(&standard.attributes), expected);
    assert_eq!(flat(&full.attributes).len(), expected.len() + FULL_ONLY.len());
    assert_eq!(
        LogRecord { attributes: Vec::new(), ..full },
        LogRecord { attributes: Vec::new(), ..standard }
    );
}

/// With a transparent proxy the connection's local port is the one that the client asked for.
#[test]
fn the_standard_profile_has_the_listeners_port_if_it_is_another_one() {
    let port = |listener: u16, filter: &AttributeFilter| {
        let accept = Accept { listener: Some(at("0.0.0.0", listener)), ..nginx() };
        let record = encode(&accept, filter);
        let attributes = flat(&record.attributes);
        assert!(!attributes.contains_key("acceptd.listener.address"));
        attributes.contains_key("acceptd.listener.port")
    };
    assert!(!port(443, &filter(false)));
    assert!(port(8443, &filter(false)));
}

#[test]
fn golden_failure() {
    let record = encode(&failed(), &filter(false));
    assert_eq!(record.severity_number, 17);
    assert_eq!((record.trace_id.len(), record.span_id.len()), (0, 0));
    assert_eq!(body(&record), "nginx[812] failed to accept tcp on 0.0.0.0:443: EMFILE");
    let expected = [
        r#"acceptd.accept.syscall="accept4""#,
        r#"acceptd.listener.address="0.0.0.0""#,
        "acceptd.listener.backlog_length=0",
        "acceptd.listener.backlog_limit=511",
        "acceptd.listener.fd=6",
        "acceptd.listener.port=443",
        r#"error.type="EMFILE""#,
        r#"log.record.uid="0123456789ABCDEF-0003-00000000002A""#,
        r#"network.transport="tcp""#,
        r#"network.type="ipv4""#,
    ];
    assert_eq!(lines(&record), expected);
}

#[test]
fn flags_are_only_sent_when_they_differ_from_the_default() {
    let odd = Accept { verified: false, mptcp: true, v4_mapped: true, self_accept: true, ..nginx() };
    let record = encode(&odd, &filter(false));
    let found = flat(&record.attributes);
    assert_eq!(found["acceptd.accept.verified"], "false");
    for key in ["acceptd.socket.mptcp", "acceptd.socket.v4_mapped", "acceptd.self"] {
        assert_eq!(found[key], "true", "{key}");
    }
    assert_eq!(found["network.transport"], "\"tcp\"");
}

#[test]
fn an_address_of_ipv6_is_bracketed_in_the_body_only() {
    let six = Accept {
        local: Some(at("::1", 443)),
        peer: Some(at("2001:db8:0:0:1:0:0:1", 9)),
        queue_time_ns: None,
        ..nginx()
    };
    let record = encode(&six, &filter(false));
    assert_eq!(body(&record), "nginx[812] accepted tcp [2001:db8::1:0:0:1]:9 -> [::1]:443");
    assert_eq!(flat(&record.attributes)["network.local.address"], "\"::1\"");
}

#[test]
fn severities_of_failures() {
    for (errno, severity) in [(12, 17), (14, 17), (23, 17), (24, 17), (105, 17), (103, 13), (22, 13), (1, 13)]
    {
        let record = encode(&Accept { errno: Some(errno), ..failed() }, &filter(false));
        assert_eq!(record.severity_number, severity, "errno {errno}");
    }
}

#[test]
fn attributes_are_included_and_excluded_by_name() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let include = names(&["acceptd.thread.name", "acceptd.capture.tier"]);
    let exclude = names(&["network.peer.address", "acceptd.capture.tier"]);
    let chosen = AttributeFilter::new(false, &include, &exclude, true, LIMIT).expect("known names");
    let record = encode(&nginx(), &chosen);
    let found = flat(&record.attributes);
    assert_eq!(found["acceptd.thread.name"], "\"nginx\"");
    assert_eq!(found["otel.event.name"], "\"acceptd.socket.accept\"");
    assert!(!found.contains_key("network.peer.address"));
    assert!(!found.contains_key("acceptd.capture.tier"), "exclude wins");
    let error =
        AttributeFilter::new(false, &names(&["acceptd.sockte.fd"]), &[], false, LIMIT).expect_err("unknown");
    assert!(error.to_string().contains("acceptd.sockte.fd"), "{error}");
}

/// An attribute that is excluded by name is not sent, not even with failures.
#[test]
fn an_excluded_attribute_is_on_no_record() {
    let exclude = ["acceptd.listener.address".to_owned()];
    let chosen = AttributeFilter::new(true, &[], &exclude, false, LIMIT).expect("known names");
    for accept in [nginx(), failed()] {
        let record = encode(&accept, &chosen);
        assert!(
            !flat(&record.attributes).contains_key("acceptd.listener.address"),
            "errno {:?}",
            accept.errno
        );
    }
}

#[test]
fn a_record_uid_prints_as_it_is_sent() {
    let uid = RecordUid { epoch: 1, cpu: 0xffff, sequence: u64::MAX };
    let record = encode(&Accept { uid, ..nginx() }, &filter(false));
    assert_eq!(uid.to_string(), "0000000000000001-FFFF-FFFFFFFFFFFF");
    assert_eq!(flat(&record.attributes)["log.record.uid"], format!("{:?}", uid.to_string()));
}

/// The arbitrary values of an accept, for proptest.
#[derive(Debug, Clone)]
struct Any {
    ends: [Option<(IpAddr, u16)>; 3],
    numbers: [Option<u64>; 6],
    small: [Option<u32>; 2],
    fds: [Option<i32>; 2],
    errno: Option<i32>,
    flags: [bool; 4],
    trace: Option<[u8; 16]>,
    thread: Vec<u8>,
    name: Vec<u8>,
    uid: (u64, u16, u64),
    pid: u32,
}

fn any_accept() -> impl Strategy<Value = Any> {
    let end = || option::of((any::<IpAddr>(), any::<u16>()));
    let number = || option::of(any::<u64>());
    // Inodes and times are below i64::MAX; OTLP has no unsigned attribute.
    let signed = || option::of(0_u64..=i64::MAX.unsigned_abs());
    (
        [end(), end(), end()],
        (number(), number(), signed(), signed(), signed(), signed()),
        [option::of(any::<u32>()), option::of(any::<u32>())],
        [option::of(0..=i32::MAX), option::of(0..=i32::MAX)],
        option::of(1..4096_i32),
        any::<[bool; 4]>(),
        any::<Option<[u8; 16]>>(),
        (vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..2000)),
        any::<(u64, u16, u64)>(),
        any::<u32>(),
    )
        .prop_map(
            |(ends, (a, b, c, d, e, f), small, fds, errno, flags, trace, (thread, name), uid, pid)| Any {
                ends,
                numbers: [a, b, c, d, e, f],
                small,
                fds,
                errno,
                flags,
                trace,
                thread,
                name,
                uid,
                pid,
            },
        )
}

impl Any {
    fn accept(&self) -> Accept<'_> {
        let [local, peer, listener] =
            self.ends.map(|end| end.map(|(addr, port)| SocketEndpoint::Ip { addr, port }));
        let [socket_cookie, listener_cookie, socket_inode, listener_inode, queue_time_ns, blocked_time_ns] =
            self.numbers;
        let [verified, mptcp, v4_mapped, self_accept] = self.flags;
        let (epoch, cpu, sequence) = self.uid;
        Accept {
            uid: RecordUid { epoch, cpu, sequence },
            trace_id: self.trace,
            span_id: self.trace.map(|_| [1; 8]),
            errno: self.errno,
            local,
            peer,
            listener,
            socket_cookie,
            listener_cookie,
            socket_inode,
            listener_inode,
            queue_time_ns,
            blocked_time_ns,
            backlog_length: self.small[0],
            backlog_limit: self.small[1],
            socket_fd: self.fds[0],
            listener_fd: self.fds[1],
            verified,
            mptcp,
            v4_mapped,
            self_accept,
            thread_name: &self.thread,
            process_name: &self.name,
            pid: self.pid,
            ..nginx()
        }
    }
}

fn address(end: Option<SocketEndpoint<'_>>) -> Option<String> {
    end.map(|end| match end {
        SocketEndpoint::Ip { addr, .. } => addr.to_string(),
        other => panic!("{other:?}"),
    })
}

fn port(end: Option<SocketEndpoint<'_>>) -> Option<u64> {
    end.map(|end| match end {
        SocketEndpoint::Ip { port, .. } => port.into(),
        other => panic!("{other:?}"),
    })
}

fn printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

proptest! {
    #[test]
    fn any_accept_is_read_back_as_it_was(any in any_accept(), full: bool) {
        let accept = any.accept();
        let record = encode(&accept, &filter(full));
        let found = flat(&record.attributes);
        prop_assert!(!body(&record).is_empty() && printable(body(&record)), "{:?}", body(&record));
        prop_assert!(body(&record).len() < 2 * LIMIT);
        prop_assert!(found.values().all(|value| printable(value)));
        prop_assert_eq!(&record.trace_id, &accept.trace_id.map_or(Vec::new(), Vec::from));

        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let text = |value: Option<String>| value.map(|value| format!("{value:?}"));
        let when_full = |value: Option<String>| value.filter(|_| full);
        let shown_listener = accept.listener.filter(|_| full || accept.errno.is_some());
        let differs = |listener: &u64| port(accept.local).is_some_and(|local| local != *listener);
        let other_port = port(accept.listener).filter(differs);
        let expected = [
            ("network.local.address", text(address(accept.local))),
            ("network.local.port", number(port(accept.local))),
            ("network.peer.address", text(address(accept.peer))),
            ("network.peer.port", number(port(accept.peer))),
            ("acceptd.listener.address", text(address(shown_listener))),
            ("acceptd.listener.port", number(port(shown_listener).or(other_port))),
            ("acceptd.socket.cookie", text(number(accept.socket_cookie))),
            ("acceptd.listener.cookie", when_full(text(number(accept.listener_cookie)))),
            ("acceptd.socket.inode", when_full(number(accept.socket_inode))),
            ("acceptd.listener.inode", when_full(number(accept.listener_inode))),
            ("acceptd.accept.queue_time_ns", number(accept.queue_time_ns)),
            ("acceptd.accept.blocked_time_ns", when_full(number(accept.blocked_time_ns))),
            ("acceptd.listener.backlog_length", number(accept.backlog_length.map(u64::from))),
            ("acceptd.listener.backlog_limit", number(accept.backlog_limit.map(u64::from))),
            ("acceptd.socket.fd", accept.socket_fd.map(|fd| fd.to_string())),
            ("acceptd.listener.fd", accept.listener_fd.map(|fd| fd.to_string())),
            ("acceptd.accept.verified", (!accept.verified).then(|| "false".to_owned())),
            ("acceptd.socket.mptcp", accept.mptcp.then(|| "true".to_owned())),
            ("log.record.uid", text(Some(accept.uid.to_string()))),
        ];
        for (key, value) in expected {
            prop_assert_eq!(found.get(key), value.as_ref(), "{}", key);
        }
        prop_assert_eq!(found.contains_key("error.type"), accept.errno.is_some());
    }

    /// Names of any bytes, encoded in a whole request.
    #[test]
    fn any_bytes_in_names_make_a_request_of_printable_text(
        name in vec(any::<u8>(), 0..3000),
        path in option::of(vec(any::<u8>(), 0..9000)),
        owner in option::of(".{0,3000}"),
        extra in vec((".{0,300}", ".{0,3000}"), 0..20),
        declared in btree_map("(service|process)\\.(name|pid|.{0,30})", ".{0,3000}", 0..20),
        details in (option::of(vec(any::<u8>(), 0..3000)), vec(vec(any::<u8>(), 0..300), 0..60)),
        limit in 16_usize..20_000,
    ) {
        let host = Host { id: Some("0a1b".into()), name: "here".into(), arch: "amd64" };
        let process = Process {
            pid: 1,
            creation_time: Some("2026-11-24T00:00:00.000Z".into()),
            executable_name: name,
            executable_path: path,
            title: None,
            user_id: 0,
            real_user_id: Some(5),
            owner,
            kernel_thread: false,
            container_id: Some("0f".repeat(32)),
            pod_uid: None,
            unit: Some("unit".into()),
            details: ProcessDetails { command: details.0, command_args: details.1, args_count: Some(60), parent_pid: Some(1) },
        };
        let resource = EncodedResource::for_process(&host, &process, DeclaredAttributes { by_process: &declared, by_operator: &extra }, limit);
        prop_assert!(resource.as_bytes().len() <= 8 << 10, "{} bytes", resource.as_bytes().len());
        let mut builder = BatchBuilder::new(Signal::Logs, BatchLimits { max_records: 10, max_bytes: 1 << 20 });
        let pushed = builder.push(1, &resource, |out| encode_accept(out, &nginx(), &filter(true)));
        prop_assert!(matches!(pushed, Push::Added));
        let batch = builder.seal().expect("one record");
        let request = ExportLogsServiceRequest::decode(batch.request).expect("a request");
        let resource = request.resource_logs[0].resource.as_ref().expect("a Resource");
        let found = flat(&resource.attributes);
        prop_assert!(found.keys().all(|key| printable(key)), "{:?}", found);
        for text in texts(&resource.attributes) {
            prop_assert!(printable(text), "{:?}", text);
        }
        for entity in &resource.entity_refs {
            for key in entity.id_keys.iter().chain(&entity.description_keys) {
                prop_assert!(found.contains_key(key.as_str()), "{} of {}", key, entity.r#type);
            }
        }
    }
}
