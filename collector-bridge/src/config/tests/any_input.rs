//! Property tests: no input makes the configuration panic, and `config show` prints what was loaded.

use proptest::prelude::*;

use super::*;

/// TOML text; often a known key with a value of any type, so that the kinds are exercised.
fn toml_text() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|value| value.to_string()),
        "\\PC{0,20}".prop_map(|text| toml::Value::String(text).to_string()),
        "\\[('[a-z]*'|[0-9]+)\\]",
        "\\{ [a-z]+ = ('[a-z%=,]*'|[0-9]+) \\}",
        "\\PC{0,20}",
        "[0-9]{1,20}\\.[0-9]{1,20}",
    ];
    let line = (0..KEYS.len(), value).prop_map(|(index, value)| format!("{} = {value}\n", KEYS[index].name));
    prop_oneof![proptest::collection::vec(line, 0..4).prop_map(|lines| lines.concat()), "(?s).{0,80}"]
}

fn variable() -> impl Strategy<Value = (OsString, OsString)> {
    use std::os::unix::ffi::OsStringExt;
    let standard = prop_oneof![
        Just("OTEL_EXPORTER_OTLP_ENDPOINT"),
        Just("OTEL_EXPORTER_OTLP_LOGS_HEADERS"),
        Just("OTEL_BLRP_SCHEDULE_DELAY"),
        Just("OTEL_LOGS_EXPORTER"),
        Just("OTEL_RESOURCE_ATTRIBUTES"),
        Just("OTEL_SDK_DISABLED"),
    ];
    let name = prop_oneof![
        (0..KEYS.len()).prop_map(|index| OsString::from(KEYS[index].variable())),
        standard.prop_map(OsString::from),
        "(ACCEPTD|OTEL)_[A-Z_]{0,20}".prop_map(OsString::from),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(OsString::from_vec),
    ];
    let value = prop_oneof![
        "[a-z0-9:/@%=,.\\[\\]-]{0,40}".prop_map(OsString::from),
        "[0-9.]{1,24}[a-zA-Z]{0,3}".prop_map(OsString::from),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(OsString::from_vec),
    ];
    (name, value)
}

proptest! {
    #[test]
    fn no_input_panics(
        text in toml_text(),
        env in proptest::collection::btree_map(variable().prop_map(|(name, _)| name), variable().prop_map(|(_, value)| value), 0..6),
    ) {
        let file = ConfigFile { path: PATH.into(), text };
        // The result is a configuration that can be shown, or an error with a message.
        match resolve(Some(&file), &env, &[]) {
            Ok(loaded) => prop_assert_eq!(loaded.settings().count(), KEYS.len()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn the_output_of_config_show_loads_as_the_same_configuration(text in toml_text()) {
        let file = ConfigFile { path: PATH.into(), text };
        if let Ok(loaded) = resolve(Some(&file), &Environment::new(), &[]) {
            let secret = |name: &str| name == "export.headers" || loaded.origin(name) == Origin::Default;
            let lines = loaded.settings().filter(|setting| !secret(&setting.name));
            let lines: Vec<_> = lines.map(|setting| format!("{} = {}", setting.name, setting.value)).collect();
            let again = from_file(&lines.join("\n")).config;
            let mut expected = loaded.config;
            expected.export.headers = Headers::default();
            prop_assert_eq!(again, expected);
        }
    }
}
