//! The hand-written encoder of events other than accepts, decoded with opentelemetry-proto.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a helper that fails should fail its test")]

use std::collections::BTreeMap;

use acceptd_otlp::{
    Attribute, AttributeFilter, Event, RecordUid, SocketEndpoint, Value, encode_event, names,
};
use opentelemetry_proto::tonic::{common::v1::any_value, logs::v1::LogRecord};
use proptest::{collection::vec, prelude::*};
use prost::Message as _;

const LIMIT: usize = 64;

fn filter(full: bool, exclude: &[&str]) -> AttributeFilter {
    let exclude: Vec<String> = exclude.iter().map(|&name| name.to_owned()).collect();
    AttributeFilter::new(full, &[], &exclude, false, LIMIT).expect("known names")
}

fn overflow(name: &[u8]) -> Event<'_> {
    let at = SocketEndpoint::Ip { addr: "::1".parse().expect("an address"), port: 443 };
    let mut event = Event {
        name: names::EVENT_ACCEPTD_LISTENER_OVERFLOW,
        time_unix_nano: 5,
        observed_time_unix_nano: 6,
        uid: RecordUid { epoch: 1, cpu: u16::MAX, sequence: 2 },
        severity: 17,
        body: vec![
            Value::Raw(name),
            Value::Text(" lost "),
            Value::Int(3),
            Value::Text(" of "),
            Value::Address(at),
            Value::Text(" in "),
            Value::Milliseconds(1_250_000),
        ],
        attributes: Vec::new(),
    };
    event.add_endpoint(Attribute::ListenerAddress, Attribute::ListenerPort, Some(at));
    event.add(Attribute::OverflowCount, Some(Value::Int(3)));
    event.add(Attribute::ListenerCookie, Some(Value::Id(u64::MAX)));
    event.add(Attribute::OwnerUnknown, Some(Value::Flag(true)));
    event.add(Attribute::ThreadName, Some(Value::Raw(name)));
    event.add(Attribute::OldestWait, None);
    event
}

fn encode(event: &Event<'_>, filter: &AttributeFilter) -> (LogRecord, String, BTreeMap<String, String>) {
    let mut bytes = Vec::new();
    encode_event(&mut bytes, event, filter);
    let record = LogRecord::decode(&bytes[..]).expect("a LogRecord");
    let text = |value: Option<&any_value::Value>| match value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        other => panic!("{other:?}"),
    };
    let body = text(record.body.as_ref().and_then(|body| body.value.as_ref()));
    let mut attributes = BTreeMap::new();
    for attribute in &record.attributes {
        let value = text(attribute.value.as_ref().and_then(|value| value.value.as_ref()));
        assert_eq!(attributes.insert(attribute.key.clone(), value), None, "{} twice", attribute.key);
    }
    (record, body, attributes)
}

#[test]
fn an_event_is_read_back() {
    let (record, body, attributes) = encode(&overflow(b"nginx"), &filter(true, &[]));
    assert_eq!((record.time_unix_nano, record.observed_time_unix_nano), (5, 6));
    assert_eq!((record.severity_number, record.event_name.as_str()), (17, "acceptd.listener.overflow"));
    assert_eq!(body, "nginx lost 3 of [::1]:443 in 1.2");
    let lines: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        lines,
        [
            "acceptd.listener.address=::1",
            "acceptd.listener.cookie=18446744073709551615",
            "acceptd.listener.owner_unknown=true",
            "acceptd.listener.port=443",
            "acceptd.overflow.count=3",
            "acceptd.thread.name=nginx",
            "log.record.uid=0000000000000001-FFFF-000000000002",
        ]
    );
}

#[test]
fn the_standard_profile_excludes_context_but_not_what_happened() {
    let (_, _, attributes) = encode(&overflow(b"nginx"), &filter(false, &[]));
    assert!(!attributes.contains_key("acceptd.thread.name"), "context is not in the standard profile");
    assert!(attributes.contains_key("acceptd.listener.address"), "the listener is part of the event");
    let (_, _, attributes) = encode(&overflow(b"nginx"), &filter(true, &["acceptd.listener.address"]));
    assert!(!attributes.contains_key("acceptd.listener.address"), "excluded by name");
}

proptest! {
    #[test]
    fn any_names_make_printable_text(name in vec(any::<u8>(), 0..300), path in vec(any::<u8>(), 1..108)) {
        let mut event = overflow(&name);
        event.body.push(Value::Address(SocketEndpoint::Unix(&path)));
        event.add(Attribute::LocalAddress, Some(Value::Address(SocketEndpoint::Unix(&path))));
        let (_, body, attributes) = encode(&event, &filter(true, &[]));
        let printable = |text: &str| !text.chars().any(char::is_control);
        prop_assert!(printable(&body) && attributes.values().all(|value| printable(value)));
        prop_assert!(attributes["network.local.address"].len() <= LIMIT);
        if path[0] == 0 {
            prop_assert!(attributes["network.local.address"].starts_with('@'));
        }
    }
}
