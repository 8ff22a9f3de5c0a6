//! Tests of the messages for mistakes: each names the place, the cause and the remedy.

use super::*;

#[test]
fn mistakes_in_the_file_name_line_cause_and_remedy() {
    for (text, message) in [
        (
            "[export]\nendpont = \"h:1\"",
            r#"/etc/acceptd/test.toml:2: unknown key "export.endpont"; did you mean "export.endpoint"? ("acceptd config default" lists every key)"#,
        ),
        (
            "colour = 1",
            r#"/etc/acceptd/test.toml:1: unknown key "colour" ("acceptd config default" lists every key)"#,
        ),
        (
            "\n[exporter]\nendpoint = 1",
            r#"/etc/acceptd/test.toml:2: unknown key "exporter" ("acceptd config default" lists every key)"#,
        ),
        (
            "export = 5",
            r#"/etc/acceptd/test.toml:1: "export" is a group of keys; write [export] and its keys below it"#,
        ),
        (
            "batch.max_records = \"8192\"",
            "/etc/acceptd/test.toml:1: batch.max_records: expected a whole number from 1 to 1000000, not a string",
        ),
        (
            "batch.max_records = 0",
            "/etc/acceptd/test.toml:1: batch.max_records: 0 is not a whole number from 1 to 1000000",
        ),
        (
            "batch.timeout = 5",
            r#"/etc/acceptd/test.toml:1: batch.timeout: expected a duration with its unit such as "200ms", from "1ms" to "1h", not an integer"#,
        ),
        (
            "capture.ring_bytes = \"3MiB\"",
            r#"/etc/acceptd/test.toml:1: capture.ring_bytes: "3MiB" is not a power of two from "64KiB" to "1GiB""#,
        ),
        (
            "export.endpoint = \"h:0\"",
            r#"/etc/acceptd/test.toml:1: export.endpoint: "h:0": port 0 cannot be connected to; use the port the Collector listens on (4317 for gRPC)"#,
        ),
        (
            "export.endpoint = \"h:70000\"",
            r#"/etc/acceptd/test.toml:1: export.endpoint: "h:70000": port 70000 is not a number from 1 to 65535"#,
        ),
        (
            "export.endpoint = \"https://h:1/v1/logs\"",
            r#"export.endpoint (/etc/acceptd/test.toml:1): gRPC endpoints have no path; remove what follows the port, or set export.protocol = "http/protobuf""#,
        ),
        (
            "export.protocol = \"http/json\"",
            r#"/etc/acceptd/test.toml:1: export.protocol: "http/json" is not supported, because encoding it costs several times as much; use "http/protobuf", which every receiver of http/json accepts"#,
        ),
        (
            "output = \"xml\"",
            r#"/etc/acceptd/test.toml:1: output: "xml" is not one of none, columns, json, otlp-json"#,
        ),
        (
            "filter.self = \"no\"",
            "/etc/acceptd/test.toml:1: filter.self: expected true or false, not a string",
        ),
        (
            "filter.exclude.peers = [\"10.0.0.7/8\"]",
            r#"/etc/acceptd/test.toml:1: filter.exclude.peers: "10.0.0.7/8" has bits set after its first 8; write "10.0.0.0/8" for the network, or "10.0.0.7" for this address alone"#,
        ),
        ("host.root = \"proc\"", r#"/etc/acceptd/test.toml:1: host.root: "proc" is not an absolute path"#),
        (
            "attributes.include = [1]",
            "/etc/acceptd/test.toml:1: attributes.include: expected a list of names, but an item of the list is an integer",
        ),
        (
            "export.backoff_max = \"500ms\"",
            "export.backoff_max (/etc/acceptd/test.toml:1): 500ms is shorter than export.backoff_initial = 1s; raise it or lower export.backoff_initial",
        ),
        (
            "queue.max_bytes = \"1MiB\"",
            "queue.max_bytes (/etc/acceptd/test.toml:1): 1048576 bytes cannot hold one request of batch.max_bytes = 3500000 bytes; raise it or lower batch.max_bytes",
        ),
    ] {
        assert_eq!(error(text, &[], &[]), message);
    }
}

#[test]
fn a_file_that_is_not_toml_names_the_line_and_not_its_text() {
    let message = error("[export]\nheaders = { authorization = \"hunter2\n", &[], &[]);
    assert!(message.starts_with("/etc/acceptd/test.toml:2: not valid TOML: "), "{message}");
    assert!(message.ends_with(r#"; "acceptd config default" prints a valid file"#), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let found =
        resolve_all("a = 1\nbatch.max_records = 0", &[("ACCEPTD_B", "1")], &[("c", "1")]).unwrap_err();
    assert_eq!(found.problems().len(), 4, "{found}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_only_when_it_was_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    assert!(matches!(file::read(None, &missing), Ok(None)));
    let message = load(Some(&missing), [], &[]).unwrap_err().to_string();
    let cause = "cannot read the configuration file: No such file or directory (os error 2); make it a readable UTF-8 file, or name another one with --config";
    assert_eq!(message, format!("{}: {cause}", missing.display()));
    // The default file exists but is a directory, which is an error.
    assert!(matches!(file::read(None, directory.path()), Err(Problem::Unreadable { .. })));
    let binary = directory.path().join("binary.toml");
    std::fs::write(&binary, b"output = \"\xff\"").unwrap();
    assert!(load(Some(&binary), [], &[]).unwrap_err().to_string().contains("valid UTF-8"));
}

#[test]
fn mistakes_in_variables_and_flags_name_them() {
    assert_eq!(
        error("", &[("ACCEPTD_EXPORT_ENDPONT", "h:1")], &[]),
        r#"env ACCEPTD_EXPORT_ENDPONT: unknown variable "ACCEPTD_EXPORT_ENDPONT"; did you mean "ACCEPTD_EXPORT_ENDPOINT"? ("acceptd config default" lists every key)"#
    );
    assert_eq!(
        error("", &[("ACCEPTD_ATTRIBUTES_PROFILE", "all")], &[]),
        r#"env ACCEPTD_ATTRIBUTES_PROFILE: attributes.profile: "all" is not one of standard, full"#
    );
    assert_eq!(
        error("", &[], &[("export.timeout", "10")]),
        r#"flag --set: export.timeout: "10" is not a duration with its unit such as "200ms", from "1ms" to "1h""#
    );
    assert_eq!(
        error("", &[], &[("endpoint", "h:1")]),
        r#"flag --set: unknown key "endpoint"; did you mean "export.endpoint"? ("acceptd config default" lists every key)"#
    );
}

#[test]
fn an_empty_value_counts_as_unset() {
    let env =
        [("ACCEPTD_BATCH_TIMEOUT", ""), ("ACCEPTD_NO_SUCH_KEY", ""), ("OTEL_EXPORTER_OTLP_TIMEOUT", "")];
    let loaded = resolve_all("export.endpoint = \"\"", &env, &[("batch.max_records", "")]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty() && loaded.origins.is_empty());
}

#[test]
fn a_variable_that_is_not_text_is_refused_or_ignored() {
    use std::os::unix::ffi::OsStringExt;
    let value = || OsString::from_vec(vec![0xff]);
    let refused = resolve(None, &[("ACCEPTD_HOST_ID".into(), value())].into(), &[]).unwrap_err();
    assert_eq!(refused.to_string(), "env ACCEPTD_HOST_ID: host.id: the value is not UTF-8; set it to text");
    let env = [("OTEL_SERVICE_NAME".into(), value()), (value(), value())].into();
    let ignored = resolve(None, &env, &[]).unwrap();
    let warning = "env OTEL_SERVICE_NAME: the value is not UTF-8; set it to text; the value is ignored";
    assert_eq!(ignored.warnings, [warning]);
}
