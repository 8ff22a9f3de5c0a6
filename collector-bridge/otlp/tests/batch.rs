//! Batches: building and splitting them loses no record, duplicates none, and moves none to another process.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a helper that fails should fail its test")]

use std::collections::BTreeMap;

use acceptd_otlp::{
    Batch, BatchBuilder, BatchLimits, DeclaredAttributes, EncodedResource, Host, Process, ProcessDetails,
    Push, Signal,
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value::Value, logs::v1::LogRecord,
};
use proptest::{collection::vec, prelude::*};
use prost::Message as _;

fn resource(pid: u32) -> EncodedResource {
    resource_with(pid, &[])
}

fn resource_with(pid: u32, by_operator: &[(String, String)]) -> EncodedResource {
    let host = Host { id: Some("id".into()), name: "here".into(), arch: "amd64" };
    let process = Process {
        pid,
        creation_time: Some("2026-11-24T00:00:00.000Z".into()),
        executable_name: b"nginx".to_vec(),
        executable_path: None,
        title: None,
        user_id: 0,
        real_user_id: None,
        owner: None,
        kernel_thread: false,
        container_id: None,
        pod_uid: None,
        unit: None,
        details: ProcessDetails::default(),
    };
    EncodedResource::for_process(
        &host,
        &process,
        DeclaredAttributes { by_process: &BTreeMap::new(), by_operator },
        1024,
    )
}

#[test]
fn a_resource_that_is_updated_later_is_in_the_batch_if_there_is_room() {
    let first = resource(7);
    let later = resource_with(9, &[("padding".to_owned(), "x".repeat(1000))]);
    for (max_bytes, pid) in [(1 << 20, 9), (first.as_bytes().len() + 900, 7)] {
        let mut builder = BatchBuilder::new(Signal::Logs, BatchLimits { max_records: 10, max_bytes });
        let pushed = builder.push(1, &first, |out| out.extend(record(0, 0)));
        assert!(matches!(pushed, Push::Added));
        builder.update_resource(2, &resource(8));
        builder.update_resource(1, &later);
        let batch = builder.seal().expect("a record");
        assert!(batch.request.len() <= max_bytes);
        assert_eq!(content(&batch), [(pid, 0)], "at most {max_bytes} bytes");
        builder.update_resource(1, &later);
        assert!(builder.seal().is_none());
    }
}

/// An encoded record whose time identifies it, with `padding` bytes of text.
fn record(number: u64, padding: usize) -> Vec<u8> {
    LogRecord { time_unix_nano: number + 1, severity_text: "x".repeat(padding), ..LogRecord::default() }
        .encode_to_vec()
}

/// The process and the number of each record. Also checks the form of the request.
fn content(batch: &Batch) -> Vec<(u64, u64)> {
    let request = ExportLogsServiceRequest::decode(batch.request.clone()).expect("a request");
    let mut found = Vec::new();
    assert!(!request.resource_logs.is_empty(), "an empty request");
    for resource_logs in &request.resource_logs {
        assert!(resource_logs.schema_url.starts_with("https://opentelemetry.io/schemas/"));
        let resource = resource_logs.resource.as_ref().expect("a Resource");
        let pid = resource.attributes.iter().find(|attribute| attribute.key == "process.pid").expect("a pid");
        let Some(Value::IntValue(pid)) = pid.value.as_ref().and_then(|value| value.value.clone()) else {
            panic!("{pid:?}")
        };
        assert_eq!(resource_logs.scope_logs.len(), 1);
        for scope_logs in &resource_logs.scope_logs {
            let scope = scope_logs.scope.as_ref().expect("a scope");
            assert_eq!((scope.name.as_str(), scope.version.as_str()), ("acceptd", env!("CARGO_PKG_VERSION")));
            assert_eq!(scope_logs.schema_url, resource_logs.schema_url);
            assert!(!scope_logs.log_records.is_empty(), "an empty scope");
            found.extend(
                scope_logs.log_records.iter().map(|log| (pid.unsigned_abs(), log.time_unix_nano - 1)),
            );
        }
    }
    assert_eq!(usize::try_from(batch.records).expect("few"), found.len());
    found
}

#[test]
fn two_processes_are_two_resources_in_one_request() {
    let mut builder = BatchBuilder::new(Signal::Logs, BatchLimits { max_records: 100, max_bytes: 1 << 20 });
    for number in 0..10 {
        let pid = 1 + number % 2;
        let pushed = builder
            .push(pid, &resource(u32::try_from(pid).expect("small")), |out| out.extend(record(number, 0)));
        assert!(matches!(pushed, Push::Added));
    }
    let batch = builder.seal().expect("ten records");
    let request = ExportLogsServiceRequest::decode(batch.request.clone()).expect("a request");
    assert_eq!(request.resource_logs.len(), 2);
    let mut found = content(&batch);
    found.sort_unstable_by_key(|&(_, number)| number);
    assert_eq!(found, (0..10).map(|number| (1 + number % 2, number)).collect::<Vec<_>>());
    assert!(builder.seal().is_none(), "an empty request");
}

#[test]
fn a_record_that_alone_is_too_large_is_refused_and_the_others_stay() {
    let mut builder = BatchBuilder::new(Signal::Logs, BatchLimits { max_records: 100, max_bytes: 4096 });
    assert!(matches!(builder.push(1, &resource(1), |out| out.extend(record(0, 0))), Push::Added));
    assert!(matches!(builder.push(1, &resource(1), |out| out.extend(record(1, 5000))), Push::TooLarge));
    assert!(matches!(builder.push(2, &resource(2), |out| out.extend(record(2, 5000))), Push::TooLarge));
    assert_eq!(content(&builder.seal().expect("one record")), [(1, 0)]);
    assert!(matches!(builder.push(1, &resource(1), |out| out.extend(record(3, 5000))), Push::TooLarge));
    assert!(builder.seal().is_none(), "bytes of the refused record remained");
}

proptest! {
    #[test]
    fn any_records_are_conserved_within_the_limits(
        pushes in vec((1_u64..9, 0_usize..400), 1..200),
        max_records in 1_u32..50,
        max_bytes in 1_500_usize..20_000,
    ) {
        let mut builder = BatchBuilder::new(Signal::Logs, BatchLimits { max_records, max_bytes });
        let mut batches = Vec::new();
        for (number, &(pid, padding)) in (0..).zip(&pushes) {
            let resource = resource(u32::try_from(pid).expect("small"));
            match builder.push(pid, &resource, |out| out.extend(record(number, padding))) {
                Push::Added => {}
                Push::Sealed(batch) => batches.push(batch),
                Push::TooLarge => prop_assert!(false, "every record fits"),
            }
        }
        batches.extend(builder.seal());
        for batch in &batches {
            prop_assert!(batch.records <= max_records);
            prop_assert!(batch.request.len() <= max_bytes, "{} of {}", batch.request.len(), max_bytes);
        }
        let mut found: Vec<_> = batches.iter().flat_map(content).collect();
        found.sort_unstable_by_key(|&(_, number)| number);
        let expected: Vec<_> = pushes.iter().zip(0..).map(|(&(pid, _), number)| (pid, number)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn halves_hold_what_the_whole_held(pids in vec(1_u64..5, 1..60)) {
        let mut builder = BatchBuilder::new(Signal::Logs, BatchLimits { max_records: 100, max_bytes: 1 << 20 });
        for (number, &pid) in (0..).zip(&pids) {
            let pushed = builder.push(pid, &resource(u32::try_from(pid).expect("small")), |out| out.extend(record(number, 0)));
            prop_assert!(matches!(pushed, Push::Added));
        }
        let whole = builder.seal().expect("records");
        match whole.split() {
            None => prop_assert_eq!(whole.records, 1),
            Some((first, second)) => {
                prop_assert!(first.records.abs_diff(second.records) <= 1);
                let mut halves = content(&first);
                halves.extend(content(&second));
                prop_assert_eq!(halves, content(&whole));
            }
        }
    }
}
