//! Tests of OpenTelemetry's environment variables.

use super::*;

#[test]
fn standard_variables_map_to_keys_and_the_logs_form_wins() {
    let loaded = from_env(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4317"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4317"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "200"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "512"),
        ("OTEL_BLRP_EXPORT_TIMEOUT", "2000"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100"),
        ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "200"),
    ]);
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(endpoint(&loaded).as_deref(), Some("http://logs:4317"));
    let Config { export, batch, shutdown, limits, .. } = logs(&loaded);
    assert_eq!(export.headers.iter().collect::<Vec<_>>(), [("a", "1")]);
    assert_eq!(export.timeout, Duration::from_millis(1500));
    assert_eq!((batch.timeout, batch.max_records), (Duration::from_millis(200), 512));
    assert_eq!(shutdown.timeout, Duration::from_secs(2));
    assert_eq!(limits.value_length, 200);
}

#[test]
fn standard_variables_about_the_transport_map_to_keys() {
    let loaded = from_env(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://general:4318/otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/cert.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
    ]);
    assert_eq!(loaded.warnings, [""; 0]);
    let Config { export, export_tls, .. } = &logs(&loaded);
    assert_eq!((export.protocol, export.compression), (Protocol::Http, Compression::Zstd));
    let files = [&export_tls.ca_file, &export_tls.cert_file, &export_tls.key_file];
    assert_eq!(
        files.map(|file| file.as_deref().and_then(Path::to_str)),
        [Some("/ca.pem"), Some("/cert.pem"), Some("/key.pem")]
    );
    assert_eq!(endpoint(&loaded).as_deref(), Some("https://general:4318/otlp"));
}

#[test]
fn a_bad_standard_variable_is_a_warning_and_the_default_is_used() {
    for (variable, value, warning) in [
        (
            "OTEL_BLRP_SCHEDULE_DELAY",
            "1s",
            r#"env OTEL_BLRP_SCHEDULE_DELAY: "1s" is not a number of milliseconds; the value is ignored"#,
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "carrier-pigeon",
            r#"env OTEL_EXPORTER_OTLP_PROTOCOL: export.protocol: "carrier-pigeon" is not one of grpc, http/protobuf; the value is ignored"#,
        ),
        (
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
            "h:0",
            r#"env OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: export.logs.endpoint: "h:0": port 0 cannot be connected to; use the port the Collector listens on (4317 for gRPC); the value is ignored"#,
        ),
        (
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "brotli",
            r#"env OTEL_EXPORTER_OTLP_COMPRESSION: export.compression: "brotli" is not one of none, gzip, zstd; the value is ignored"#,
        ),
        (
            "OTEL_BLRP_MAX_QUEUE_SIZE",
            "2048",
            "env OTEL_BLRP_MAX_QUEUE_SIZE: acceptd does not support this variable; it has no effect",
        ),
        (
            "OTEL_LOGS_EXPORTER",
            "zipkin",
            r#"env OTEL_LOGS_EXPORTER: "zipkin" is not one of otlp, console, none; the value is ignored"#,
        ),
        (
            "OTEL_SDK_DISABLED",
            "1",
            r#"env OTEL_SDK_DISABLED: "1" is neither true nor false; the value is ignored"#,
        ),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "a=1,b",
            "env OTEL_RESOURCE_ATTRIBUTES: entry 2 is not name=value (write %2C for a comma within a value); the value is ignored",
        ),
    ] {
        let loaded = from_env(&[(variable, value)]);
        assert_eq!(loaded.warnings, [warning]);
        assert_eq!(loaded.config, Config::default(), "{variable}");
        assert!(loaded.agent_resource.is_empty(), "{variable}");
    }
}

#[test]
fn the_logs_exporter_decides_whether_something_is_sent() {
    let set = ("OTEL_EXPORTER_OTLP_ENDPOINT", "h:1");
    let file = "export.endpoint = \"file:1\"";
    for (text, exporter, other, expected) in [
        ("", "otlp", Some(("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")), Some("http://localhost:4318")),
        ("export.logs.endpoint = \"file:1\"", "none", None, None),
        ("", "otlp", None, Some("http://localhost:4317")),
        ("", "console, otlp", None, Some("http://localhost:4317")),
        ("", "otlp", Some(set), Some("http://h:1")),
        ("", "otlp", Some(("OTEL_EXPORTER_OTLP_ENDPOINT", "h:0")), Some("http://localhost:4317")),
        (file, "otlp", None, Some("http://file:1")),
        (file, "none", Some(set), None),
        (file, "console", Some(set), None),
        (file, "zipkin", None, Some("http://file:1")),
        (file, "none", Some(("ACCEPTD_EXPORT_ENDPOINT", "own:1")), Some("http://own:1")),
        (file, "otlp", Some(("OTEL_SDK_DISABLED", "TRUE")), None),
        (file, "otlp", Some(("OTEL_SDK_DISABLED", "false")), Some("http://file:1")),
    ] {
        let mut env = vec![("OTEL_LOGS_EXPORTER", exporter)];
        env.extend(other);
        let loaded = resolve_all(text, &env, &[]).unwrap();
        assert_eq!(endpoint(&loaded).as_deref(), expected, "{text} {env:?}");
    }
}

#[test]
fn standard_variables_about_the_resource_describe_the_agent_only() {
    let loaded = from_env(&[
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=weak,deployment.environment.name=a%20b"),
        ("OTEL_SERVICE_NAME", "strong"),
    ]);
    let expected = [("deployment.environment.name", "a b"), ("service.name", "strong")];
    assert!(loaded.agent_resource.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected));
    assert_eq!(loaded.config, Config::default());
}

#[test]
fn the_declarative_file_is_refused() {
    let message = error("", &[("OTEL_CONFIG_FILE", "/otel.yaml")], &[]);
    assert!(message.starts_with("env OTEL_CONFIG_FILE: acceptd does not read"), "{message}");
    assert!(resolve_all("", &[("OTEL_CONFIG_FILE", "")], &[]).is_ok());
}
