//! Tests of the configuration as a whole: which layer wins, what messages say, and that secrets are never
//! shown.

use std::{ffi::OsString, path::Path, time::Duration};

use acceptd_otlp::{Compression, Signal};

use super::{
    env::Environment,
    file::{self, ConfigFile},
    resolve::resolve,
    schema::KEYS,
    *,
};

mod any_input;
mod mistakes;
mod scopes;
mod standard;

const PATH: &str = "/etc/acceptd/test.toml";

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn resolve_all(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let file = ConfigFile { path: PATH.into(), text: text.to_owned() };
    let set = |(key, value): &(&str, &str)| Flag {
        name: "--set",
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    let flags: Vec<Flag> = flags.iter().map(set).collect();
    resolve(Some(&file), &environment(env), &flags)
}

fn from_file(text: &str) -> Loaded {
    resolve_all(text, &[], &[]).unwrap()
}

fn from_env(env: &[(&str, &str)]) -> Loaded {
    resolve_all("", env, &[]).unwrap()
}

fn error(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    resolve_all(text, env, flags).unwrap_err().to_string()
}

fn endpoint(loaded: &Loaded) -> Option<String> {
    logs(loaded).export.endpoint.as_ref().map(Endpoint::uri)
}

/// The configuration of the signal logs.
fn logs(loaded: &Loaded) -> Config {
    loaded.view(&Scope::Signal(Signal::Logs)).config
}

#[test]
fn each_layer_wins_over_the_ones_before_it() {
    let file = "[batch]\n\ntimeout = \"2s\"";
    let otel = ("OTEL_BLRP_SCHEDULE_DELAY", "3000");
    let own = ("ACCEPTD_BATCH_TIMEOUT", "4s");
    let flag = ("batch.timeout", "5s");
    let in_file = Origin::File { path: PATH.into(), line: 3 };
    let in_otel = Origin::Env("OTEL_BLRP_SCHEDULE_DELAY".to_owned());
    let in_own = Origin::Env("ACCEPTD_BATCH_TIMEOUT".to_owned());
    let in_flag = Origin::Flag("--set".to_owned());
    // Every subset of the layers: the highest layer of the subset decides.
    for present in 0..16_u32 {
        let has = |layer: u32| present & (1 << layer) != 0;
        let text = if has(0) { file } else { "" };
        let env: Vec<_> =
            [(1, otel), (2, own)].into_iter().filter(|(layer, _)| has(*layer)).map(|(_, v)| v).collect();
        let flags = if has(3) { vec![flag] } else { vec![] };
        let loaded = resolve_all(text, &env, &flags).unwrap();
        let (seconds, origin) = match present {
            8.. => (5, &in_flag),
            4.. => (4, &in_own),
            2.. => (3, &in_otel),
            1 => (2, &in_file),
            0 => (1, &Origin::Default),
        };
        assert_eq!(loaded.config.batch.timeout, Duration::from_secs(seconds), "{present:04b}");
        assert_eq!(&loaded.origin("batch.timeout"), origin, "{present:04b}");
    }
}

#[test]
fn every_key_can_be_set_by_variable_and_flag_and_file() {
    // Each kind is exercised with the text of a default. Lists and tables have another form in variables.
    for key in KEYS {
        let value = (key.get)(&Config::default());
        let loaded = from_file(&format!("{} = {value}", key.name));
        let expected = if value.as_str() == Some("") {
            Origin::Default
        } else {
            Origin::File { path: PATH.into(), line: 1 }
        };
        assert_eq!(loaded.origin(key.name), expected, "{}", key.name);
        let word = match value {
            toml::Value::String(text) if text.is_empty() => "/x".to_owned(),
            toml::Value::String(text) => text,
            toml::Value::Array(_) if key.name.ends_with("families") => "inet,unix".to_owned(),
            toml::Value::Array(_) if key.name == "resource.include" => {
                "process.command,process.parent_pid".to_owned()
            }
            toml::Value::Array(_) if key.name.ends_with("hooks") => "sys_exit,sys_enter".to_owned(),
            toml::Value::Array(_) if key.name.ends_with("peers") => "10.0.0.0/8,::1".to_owned(),
            toml::Value::Array(_) if (key.expects)().contains("numbers") => "1,2".to_owned(),
            toml::Value::Array(_) => "a,b".to_owned(),
            toml::Value::Table(_) => "a=b".to_owned(),
            other => other.to_string(),
        };
        let variable = key.variable();
        // A certificate is only valid together with its private key.
        let both = "[export.tls]\ncert_file = \"/c\"\nkey_file = \"/k\"";
        let text = if key.name.ends_with("cert_file") || key.name.ends_with("key_file") { both } else { "" };
        let loaded = resolve_all(text, &[(&variable, &word)], &[]).unwrap();
        assert_eq!(loaded.origin(key.name), Origin::Env(variable.clone()));
        let loaded = resolve_all(text, &[], &[(key.name, &word)]).unwrap();
        assert_eq!(loaded.origin(key.name), Origin::Flag("--set".to_owned()), "{}", key.name);
    }
}

#[test]
fn lists_in_flags_and_variables_have_the_form_of_the_file_too() {
    let flags = [
        ("filter.ports", "[80, 443]"),
        ("filter.comms", r#"["nginx", "a,b"]"#),
        ("filter.families", r#"["inet"]"#),
        ("attributes.include", r#" ["acceptd.thread.id"] "#),
    ];
    let loaded = resolve_all("", &[("ACCEPTD_FILTER_PEERS", r#"["10.0.0.0/8", "::1"]"#)], &flags).unwrap();
    let Config { filter, attributes, .. } = &loaded.config;
    assert_eq!(
        (&filter.ports[..], &filter.comms[..]),
        (&[80, 443][..], &["nginx", "a,b"].map(str::to_owned)[..])
    );
    assert_eq!((filter.families.len(), attributes.include.len(), filter.peers.len()), (1, 1, 2));
    for (key, word) in [("filter.ports", "[80"), ("filter.comms", "[nginx]"), ("filter.families", "[inet]")] {
        let message = error("", &[], &[(key, word)]);
        assert!(
            message.starts_with(&format!("flag --set: {key}: {word:?} begins like a list of TOML")),
            "{message}"
        );
        assert!(message.contains("or the items separated by commas without brackets"), "{message}");
    }
}

#[test]
fn the_default_file_has_the_defaults() {
    let text = default_file();
    let untouched = from_file(&text);
    assert_eq!(untouched.config, Config::default());
    assert!(untouched.origins.is_empty());

    let named = |line: &str| {
        KEYS.iter().any(|key| {
            let name = key.name.rsplit('.').next().unwrap();
            line.strip_prefix('#').is_some_and(|line| line.starts_with(&format!("{name} = ")))
        })
    };
    let uncommented: Vec<&str> =
        text.lines().map(|line| if named(line) { &line[1..] } else { line }).collect();
    let loaded = from_file(&uncommented.join("\n"));
    assert_eq!(loaded.config, Config::default());
    let unset = KEYS.iter().filter(|key| (key.get)(&Config::default()).as_str() == Some("")).count();
    assert_eq!(loaded.origins.len(), KEYS.len() - unset, "every key with a default stands in the file");
}

#[test]
fn defaults_are_those_of_the_manual() {
    let Config { capture, batch, queue, export, limits, shutdown, state, .. } = Config::default();
    assert_eq!(capture.ring_bytes, 4_194_304);
    assert_eq!(
        (batch.max_records, batch.max_bytes, batch.timeout),
        (8192, 3_500_000, Duration::from_secs(1))
    );
    assert_eq!(queue.max_bytes, 16_777_216);
    assert_eq!((export.endpoint, export.timeout), (None, Duration::from_secs(10)));
    assert_eq!(export.retry_window, Duration::from_mins(5));
    assert_eq!(
        (export.backoff_initial, export.backoff_max),
        (Duration::from_secs(1), Duration::from_secs(30))
    );
    assert_eq!(limits.value_length, 1024);
    assert_eq!(shutdown.timeout, Duration::from_secs(5));
    assert_eq!(state.directory, Path::new("/var/lib/acceptd"));
}

#[test]
fn without_an_endpoint_columns_are_printed_and_with_one_only_what_was_asked_for() {
    assert_eq!(from_file("").config.output, Some(OutputFormat::Columns));
    assert_eq!(from_file("output = \"none\"").config.output, None);
    assert_eq!(from_file("export.endpoint = \"h:1\"").config.output, None);
    let both = from_file("output = \"json\"\nexport.endpoint = \"h:1\"");
    assert_eq!(both.config.output, Some(OutputFormat::Json));
    let console = from_env(&[("OTEL_LOGS_EXPORTER", "otlp,console")]);
    assert_eq!(console.config.output, Some(OutputFormat::Columns));
}

#[test]
fn secrets_are_never_printed() {
    let text = "[export]\nendpoint = \"http://user:hunter2@h:4317\"\nheaders = { x-key = \"hunter2\" }";
    let loaded = from_file(text);
    let shown: Vec<_> = loaded.settings().collect();
    let value = |name| shown.iter().find(|setting| setting.name == name).unwrap().value.as_str();
    assert_eq!(value("export.endpoint"), r#""http://***@h:4317""#);
    assert_eq!(value("export.headers"), r#"{ x-key = "***" }"#);
    let debug = format!("{loaded:?}");
    assert!(!debug.contains("hunter2") && !debug.contains("user"), "{debug}");
    // The requests still have both: the user's header, and the URL's credentials as another header.
    let sent = logs(&loaded).export.headers;
    let headers: Vec<_> = sent.iter().collect();
    assert_eq!(headers, [("authorization", "Basic dXNlcjpodW50ZXIy"), ("x-key", "hunter2")]);
    assert_eq!(endpoint(&loaded).as_deref(), Some("http://h:4317"));
}

#[test]
fn the_port_of_the_other_protocol_is_worth_a_warning() {
    let warning = "export.endpoint (/etc/acceptd/test.toml:1): Collectors receive http/protobuf on port 4318, but export.protocol is grpc; use port 4317, or set export.protocol to http/protobuf";
    assert_eq!(from_file("export.endpoint = \"h:4318\"").warnings, [warning]);
    let http = "[export]\nprotocol = \"http/protobuf\"\nendpoint = ";
    assert_eq!(from_file(&format!("{http}\"h:4318\"")).warnings, [""; 0]);
    let warnings = from_file(&format!("{http}\"h:4317\"")).warnings;
    assert!(warnings[0].contains("export.protocol is http/protobuf; use port 4318"), "{warnings:?}");
}
