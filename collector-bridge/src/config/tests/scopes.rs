//! Tests of keys for one signal, of additional destinations, and of reloads.

use super::*;

fn endpoint_for(loaded: &Loaded, signal: Signal) -> Option<String> {
    loaded.view(&Scope::Signal(signal)).config.export.endpoint.as_ref().map(Endpoint::uri)
}

#[test]
fn a_signal_has_what_is_set_for_it_and_else_what_is_set_for_all() {
    let loaded = from_file(
        "[export]\nendpoint = \"all:1\"\ntimeout = \"3s\"\n[export.metrics]\nendpoint = \"some:1\"\n[export.traces.tls]\nca_file = \"/ca.pem\"",
    );
    assert_eq!(endpoint_for(&loaded, Signal::Logs).as_deref(), Some("http://all:1"));
    assert_eq!(endpoint_for(&loaded, Signal::Metrics).as_deref(), Some("http://some:1"));
    let metrics = loaded.view(&Scope::Signal(Signal::Metrics));
    assert_eq!((metrics.config.export.timeout, metrics.has_own_endpoint), (Duration::from_secs(3), true));
    let traces = loaded.view(&Scope::Signal(Signal::Traces));
    assert!(traces.config.export_tls.ca_file.is_some() && !traces.has_own_endpoint);
    assert_eq!(loaded.config.export_tls.ca_file, None);
}

#[test]
fn each_variable_of_opentelemetry_has_a_form_for_each_signal() {
    for (form, signal) in [("LOGS", Signal::Logs), ("METRICS", Signal::Metrics), ("TRACES", Signal::Traces)] {
        let name = |what: &str| format!("OTEL_EXPORTER_OTLP_{form}_{what}");
        let variables: Vec<(String, &str)> = [
            ("ENDPOINT", "https://h:4318/x"),
            ("PROTOCOL", "http/protobuf"),
            ("HEADERS", "a=1"),
            ("TIMEOUT", "7"),
            ("COMPRESSION", "gzip"),
            ("CERTIFICATE", "/ca.pem"),
            ("CLIENT_CERTIFICATE", "/cert.pem"),
            ("CLIENT_KEY", "/key.pem"),
            ("INSECURE", "true"),
        ]
        .map(|(what, value)| (name(what), value))
        .to_vec();
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let loaded = from_env(&variables);
        assert_eq!(loaded.warnings, [""; 0], "{form}");
        let Config { export, export_tls, .. } = loaded.view(&Scope::Signal(signal)).config;
        assert_eq!(export.endpoint.as_ref().map(Endpoint::uri).as_deref(), Some("https://h:4318/x"));
        assert_eq!((export.protocol, export.compression), (Protocol::Http, Compression::Gzip));
        assert_eq!((export.timeout, export.headers.iter().count()), (Duration::from_millis(7), 1));
        assert!([export_tls.ca_file, export_tls.cert_file, export_tls.key_file].iter().all(Option::is_some));
        assert_eq!(loaded.config.export, Config::default().export, "{form}: the global keys are unchanged");
    }
}

/// `--endpoint` overrides a file's endpoint for one signal.
#[test]
fn a_stronger_layer_wins_over_a_more_special_key() {
    let file = "export.logs.endpoint = \"file:1\"";
    let with =
        |env: &[(&str, &str)], flags: &[(&str, &str)]| endpoint(&resolve_all(file, env, flags).unwrap());
    assert_eq!(with(&[], &[]).as_deref(), Some("http://file:1"));
    assert_eq!(with(&[], &[("export.endpoint", "flag:1")]).as_deref(), Some("http://flag:1"));
    let both = [("ACCEPTD_EXPORT_ENDPOINT", "all:1"), ("ACCEPTD_EXPORT_LOGS_ENDPOINT", "logs:1")];
    assert_eq!(with(&both, &[]).as_deref(), Some("http://logs:1"), "in one layer the special key wins");
    assert_eq!(with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "otel:1")], &[]).as_deref(), Some("http://otel:1"));
}

#[test]
fn another_destination_has_its_own_keys_and_the_defaults() {
    let text = "[export]\nendpoint = \"h:1\"\nheaders = { x-key = \"hunter2\" }\ntimeout = \"3s\"\n[destinations.archive]\nfile = \"/var/log/a.jsonl\"\n[destinations.audit]\nendpoint = \"audit:1\"\nretry_window = \"1h\"";
    let loaded = from_file(text);
    assert_eq!(loaded.destinations().into_iter().collect::<Vec<_>>(), ["archive", "audit"]);
    let view = |name: &str| loaded.view(&Scope::Destination(name.to_owned())).config;
    let archive = view("archive");
    assert!(archive.export.file.is_some() && archive.export.endpoint.is_none() && archive.is_sent());
    let audit = view("audit");
    assert_eq!(audit.export.headers.iter().count(), 0, "headers are not inherited");
    assert_eq!(audit.export.timeout, Config::default().export.timeout);
    assert_eq!(audit.export.retry_window, Duration::from_hours(1));
    assert_eq!(loaded.config.output, None, "the records are sent elsewhere, so they are not printed");
}

#[test]
fn an_error_in_a_destination_names_the_key_and_its_line() {
    for (text, words) in [
        (
            "[destinations.a]\ntimeout = \"1s\"",
            "test.toml:2): the destination has no address: set destinations.a.endpoint",
        ),
        (
            "[destinations.a]\nendpoint = \"h:1/x\"",
            "destinations.a.endpoint (/etc/acceptd/test.toml:2): gRPC endpoints have no path",
        ),
        ("[destinations.a]\nendpoint = \"h:1\"\nfile = \"/x\"", "destinations.a.file"),
        ("[destinations.a]\ntimeout = 7", "destinations.a.timeout: expected a duration"),
        ("[destinations.a]\nendpont = \"h:1\"", "unknown key \"destinations.a.endpont\""),
        ("[destinations.A]\nendpoint = \"h:1\"", "unknown key"),
        ("[destinations.default]\nendpoint = \"h:1\"", "unknown key"),
        ("destinations = 7", "is a group of keys"),
        ("[export]\nendpoint = \"h:1\"\nfile = \"/x\"", "export.file"),
        ("[export.logs]\ntls.cert_file = \"/x\"", "export.logs.tls.cert_file"),
    ] {
        let message = error(text, &[], &[]);
        assert!(message.contains(words), "{text}: {message}");
    }
}

#[test]
fn settings_of_one_destination_are_shown_last_and_without_secrets() {
    let loaded =
        from_file("[destinations.a]\nendpoint = \"http://u:hunter2@h:1\"\nheaders = { k = \"hunter2\" }");
    let shown: Vec<String> =
        loaded.settings().map(|setting| format!("{} = {}", setting.name, setting.value)).collect();
    let last = &shown[shown.len() - 2..];
    assert_eq!(last[0], r#"destinations.a.endpoint = "http://***@h:1""#);
    assert!(last[1].starts_with("destinations.a.headers") && !shown.join("").contains("hunter2"), "{last:?}");
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn the_stronger_layer_decides_between_an_endpoint_and_a_file() {
    let file = "export.file = \"/var/log/a.jsonl\"";
    let sent = |env: &[(&str, &str)], flags: &[(&str, &str)]| {
        let export = logs(&resolve_all(file, env, flags).unwrap()).export;
        (export.endpoint.as_ref().map(Endpoint::uri), export.file.is_some())
    };
    assert_eq!(sent(&[], &[]), (None, true));
    assert_eq!(sent(&[], &[("export.endpoint", "flag:1")]), (Some("http://flag:1".to_owned()), false));
    let otel = sent(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:1")], &[]);
    assert_eq!(otel, (Some("http://otel:1".to_owned()), false));
    assert_eq!(sent(&[("OTEL_LOGS_EXPORTER", "none")], &[]), (None, false));
    assert_eq!(sent(&[("OTEL_LOGS_EXPORTER", "otlp")], &[]), (None, true), "a file overrides a fallback");
    assert_eq!(sent(&[], &[("export.endpoint", "none")]), (None, false), "`watch` sets this");
    let both = [("export.logs.file", "/x"), ("export.endpoint", "h:1")];
    assert_eq!(sent(&[], &both), (None, true), "in one layer the special key wins");
}

#[test]
fn the_fallback_of_a_signal_is_weaker_than_the_file_and_has_the_port_of_its_protocol() {
    let otlp = [("OTEL_LOGS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf")];
    assert_eq!(endpoint(&from_env(&otlp)).as_deref(), Some("http://localhost:4318"));
    let loaded = resolve_all("export.logs.endpoint = \"c:4317\"", &otlp[..1], &[]).unwrap();
    assert_eq!(endpoint(&loaded).as_deref(), Some("http://c:4317"));
    let metrics = from_env(&[("OTEL_METRICS_EXPORTER", "otlp")]);
    let view = metrics.view(&Scope::Signal(Signal::Metrics));
    let uri = view.config.export.endpoint.as_ref().map(Endpoint::uri);
    assert_eq!(uri.as_deref(), Some("http://localhost:4317"));
    assert!(!view.has_own_endpoint && endpoint(&metrics).is_none());
    assert_eq!(
        metrics.config.output,
        Some(OutputFormat::Columns),
        "records are not sent, so they are printed"
    );
}

#[test]
fn a_reload_says_what_changes_at_once_and_what_does_not() {
    let before = from_file("[export]\nendpoint = \"h:1\"\n[capture]\nring_bytes = \"4MiB\"");
    let text = "[export]\nendpoint = \"h:2\"\nconcurrency = 3\n[capture]\nring_bytes = \"8MiB\"\n[batch]\nmax_bytes = \"1MiB\"\n[export.metrics]\ntimeout = \"1s\"";
    let Reloaded { loaded, changed, pending } = before.reload(from_file(text));
    assert_eq!(changed, ["export.endpoint", "export.metrics.timeout"]);
    assert_eq!(pending, ["capture.ring_bytes", "batch.max_bytes", "export.concurrency"]);
    assert_eq!(endpoint(&loaded).as_deref(), Some("http://h:2"));
    assert_eq!(loaded.config.capture, before.config.capture);
    let Reloaded { changed, pending, .. } = loaded.reload(loaded.clone());
    assert_eq!((changed.len(), pending.len()), (0, 0));
}
