//! The variables of OpenTelemetry, by its rules: empty is unset, only `true` is true, and a value that cannot be
//! used is a warning, never an error. Source: opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables
//! and .../protocol/exporter.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::endpoint::NO_ENDPOINT;
use super::env::{Environment, NOT_TEXT};
use super::layer::{Entry, find};
use super::origin::Origin;
use super::pairs;
use super::raw::Raw;

/// The variable that names a file of OpenTelemetry's declarative configuration.
pub(super) const CONFIG_FILE: &str = "OTEL_CONFIG_FILE";

/// What the specification says for an OTLP exporter without an endpoint.
const DEFAULT_ENDPOINT: &str = "http://localhost:4317";

/// How the text of a variable becomes the text of a key.
enum Form {
    /// As it is.
    Same,
    /// A number of milliseconds.
    Milliseconds,
    /// A path, which may begin where the agent was started.
    Path,
}

/// Variables that set a key. Where two set the same one, the later, more specific one wins.
const MAPPED: &[(&str, &str, Form)] = &[
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "export.endpoint", Form::Same),
    ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "export.logs.endpoint", Form::Same),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "export.protocol", Form::Same),
    ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "export.protocol", Form::Same),
    ("OTEL_EXPORTER_OTLP_HEADERS", "export.headers", Form::Same),
    ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "export.headers", Form::Same),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "export.timeout", Form::Milliseconds),
    ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "export.timeout", Form::Milliseconds),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "export.compression", Form::Same),
    ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "export.compression", Form::Same),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "export.tls.ca_file", Form::Path),
    ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "export.tls.ca_file", Form::Path),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "export.tls.cert_file", Form::Path),
    ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE", "export.tls.cert_file", Form::Path),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "export.tls.key_file", Form::Path),
    ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "export.tls.key_file", Form::Path),
    ("OTEL_BLRP_SCHEDULE_DELAY", "batch.timeout", Form::Milliseconds),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "batch.max_records", Form::Same),
    ("OTEL_BLRP_EXPORT_TIMEOUT", "shutdown.timeout", Form::Milliseconds),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "limits.value_length", Form::Same),
    ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "limits.value_length", Form::Same),
];

/// Variables that ask for nothing else than what happens anyway when they have this value.
const HARMLESS: &[(&str, &str)] =
    &[("OTEL_EXPORTER_OTLP_INSECURE", "true"), ("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "true")];

/// Variables that begin with one of these are about what the agent does, and deserve a word when they do nothing.
const CONCERNED: &[&str] = &["OTEL_EXPORTER_OTLP_", "OTEL_BLRP_", "OTEL_LOGRECORD_"];

/// What OpenTelemetry's variables say.
#[derive(Default)]
pub(super) struct Findings {
    /// Weaker than the file.
    pub(super) fallback: Vec<Entry>,
    /// Stronger than the file.
    pub(super) entries: Vec<Entry>,
    pub(super) warnings: Vec<String>,
    /// Attributes of the agent's own Resource.
    pub(super) resource: BTreeMap<String, String>,
}

/// Reads `env`.
pub(super) fn parse(env: &Environment) -> Findings {
    let mut findings = Findings::default();
    let read = Variables::new(env, &mut findings);
    for (variable, key, form) in MAPPED {
        if let Some(text) = read.get(variable) {
            match form.apply(text) {
                Ok(text) => findings.set(key, &text, variable),
                Err(cause) => findings.ignore(variable, &cause),
            }
        }
    }
    if let Some(list) = read.get("OTEL_LOGS_EXPORTER") {
        findings.exporters(list);
    }
    if let Some(text) = read.get("OTEL_SDK_DISABLED") {
        match text.to_ascii_lowercase().as_str() {
            "true" => findings.send_nothing("OTEL_SDK_DISABLED"),
            "false" => {}
            _ => findings.ignore("OTEL_SDK_DISABLED", &format!("{text:?} is neither true nor false")),
        }
    }
    findings.describe_agent(&read);
    findings.warn_of_the_rest(&read);
    findings
}

/// The variables that are text and not empty.
struct Variables<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Variables<'a> {
    fn new(env: &'a Environment, findings: &mut Findings) -> Self {
        let mut variables = BTreeMap::new();
        for (name, value) in env {
            let Some(name) = name.to_str().filter(|name| name.starts_with("OTEL_")) else { continue };
            match value.to_str() {
                Some("") => {}
                Some(value) => _ = variables.insert(name, value),
                None => findings.ignore(name, NOT_TEXT),
            }
        }
        Self(variables)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }
}

impl Form {
    fn apply(&self, text: &str) -> Result<String, String> {
        match self {
            Self::Same => Ok(text.to_owned()),
            Self::Milliseconds => match text.parse::<u64>() {
                Ok(milliseconds) => Ok(format!("{milliseconds}ms")),
                Err(_) => Err(format!("{text:?} is not a number of milliseconds")),
            },
            Self::Path => match std::path::absolute(text) {
                Ok(path) => Ok(path.to_string_lossy().into_owned()),
                Err(error) => Err(format!("{text:?} is no path: {error}")),
            },
        }
    }
}

impl Findings {
    fn set(&mut self, key: &str, text: &str, variable: &str) {
        self.entries.extend(entry(key, text, variable));
    }

    fn send_nothing(&mut self, variable: &str) {
        for key in ["export.endpoint", "export.logs.endpoint"] {
            self.set(key, NO_ENDPOINT, variable);
        }
    }

    fn ignore(&mut self, variable: &str, cause: &str) {
        self.warnings.push(ignored(format_args!("env {variable}: {cause}")));
    }

    /// `OTEL_LOGS_EXPORTER`: a list of exporters that replaces whatever else would have been used.
    fn exporters(&mut self, list: &str) {
        const VARIABLE: &str = "OTEL_LOGS_EXPORTER";
        let mut known = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "otlp" | "console" | "none" => known.push(name),
                _ => self.ignore(VARIABLE, &format!("{name:?} is not one of otlp, console, none")),
            }
        }
        if known.is_empty() {
            return;
        }
        if known.contains(&"otlp") {
            self.fallback.extend(entry("export.endpoint", DEFAULT_ENDPOINT, VARIABLE));
        } else {
            self.send_nothing(VARIABLE);
        }
        if known.contains(&"console") {
            self.set("output", "columns", VARIABLE);
        }
    }

    /// The agent's own Resource; a list with any mistake is left out whole, as the specification wants it.
    fn describe_agent(&mut self, read: &Variables<'_>) {
        if let Some(list) = read.get("OTEL_RESOURCE_ATTRIBUTES") {
            match pairs::from_list(list) {
                Ok(attributes) => self.resource.extend(attributes),
                Err(cause) => self.ignore("OTEL_RESOURCE_ATTRIBUTES", &cause),
            }
        }
        if let Some(name) = read.get("OTEL_SERVICE_NAME") {
            self.resource.insert("service.name".to_owned(), name.to_owned());
        }
    }

    fn warn_of_the_rest(&mut self, read: &Variables<'_>) {
        for (name, value) in &read.0 {
            let concerned = CONCERNED.iter().any(|prefix| name.starts_with(prefix));
            let handled =
                MAPPED.iter().any(|(mapped, ..)| mapped == name) || HARMLESS.contains(&(name, value));
            if concerned && !handled {
                self.warnings.push(format!("env {name}: has no effect yet"));
            }
        }
    }
}

fn entry(key: &str, text: &str, variable: &str) -> Option<Entry> {
    Some(Entry { key: find(key)?, raw: Raw::Word(text.to_owned()), origin: Origin::Env(variable.to_owned()) })
}

/// The warning for a value that is not used, after its place and `cause`.
pub(super) fn ignored(cause: impl std::fmt::Display) -> String {
    format!("{cause}; the value is ignored")
}

/// Whether [`CONFIG_FILE`] is set.
pub(super) fn names_declarative_file(env: &Environment) -> bool {
    env.get(OsStr::new(CONFIG_FILE)).is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mapped_variable_has_its_key() {
        for (variable, key, _) in MAPPED {
            assert!(find(key).is_some(), "{variable} -> {key}");
        }
        for key in ["output", "export.endpoint"] {
            assert!(find(key).is_some(), "{key}");
        }
    }
}
