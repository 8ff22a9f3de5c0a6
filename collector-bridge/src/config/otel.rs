//! Reads OpenTelemetry's environment variables by the rules of its specification: empty means unset, only
//! `true` is true, and a value that cannot be used is a warning, never an error. Source:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/> and
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.

use std::{collections::BTreeMap, ffi::OsStr};

use super::{
    endpoint::NO_ENDPOINT,
    env::{Environment, NOT_TEXT},
    layer::Entry,
    origin::Origin,
    pairs,
    raw::Raw,
    scope::locate,
};

/// The variable that names a file of OpenTelemetry's declarative configuration.
pub(super) const CONFIG_FILE: &str = "OTEL_CONFIG_FILE";

/// The specification's default for an OTLP exporter without an endpoint.
const DEFAULT_ENDPOINT: &str = "http://localhost:4317";

/// How the text of a variable is converted to the text of a key.
enum Form {
    /// Unchanged.
    Same,
    /// A number of milliseconds.
    Milliseconds,
    /// Case does not matter.
    LowerCase,
    /// A path, which may be relative to the working directory.
    Path,
    /// The name of a sampler. `parentbased_…` is the same as the sampler behind the prefix, since the agent's
    /// spans have no parent.
    Sampler,
}

/// Variables that set a key.
const MAPPED: &[(&str, &str, Form)] = &[
    ("OTEL_METRIC_EXPORT_INTERVAL", "metrics.interval", Form::Milliseconds),
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "metrics.temporality", Form::LowerCase),
    ("OTEL_TRACES_SAMPLER", "traces.sampler", Form::Sampler),
    ("OTEL_TRACES_SAMPLER_ARG", "traces.ratio", Form::Same),
    ("OTEL_BSP_SCHEDULE_DELAY", "batch.timeout", Form::Milliseconds),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "batch.max_records", Form::Same),
    ("OTEL_BSP_EXPORT_TIMEOUT", "shutdown.timeout", Form::Milliseconds),
    ("OTEL_BLRP_SCHEDULE_DELAY", "batch.timeout", Form::Milliseconds),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "batch.max_records", Form::Same),
    ("OTEL_BLRP_EXPORT_TIMEOUT", "shutdown.timeout", Form::Milliseconds),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "limits.value_length", Form::Same),
    // Later entries override earlier ones, so the more specific variable comes last.
    ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "limits.value_length", Form::Same),
];

/// Variables that set a key of `export.*`: the part of the name behind `OTEL_EXPORTER_OTLP_`, or behind
/// `OTEL_EXPORTER_OTLP_LOGS_` and so on for one signal.
const EXPORTER: &[(&str, &str, Form)] = &[
    ("ENDPOINT", "endpoint", Form::Same),
    ("PROTOCOL", "protocol", Form::Same),
    ("HEADERS", "headers", Form::Same),
    ("TIMEOUT", "timeout", Form::Milliseconds),
    ("COMPRESSION", "compression", Form::Same),
    ("CERTIFICATE", "tls.ca_file", Form::Path),
    ("CLIENT_CERTIFICATE", "tls.cert_file", Form::Path),
    ("CLIENT_KEY", "tls.key_file", Form::Path),
];

/// The signals of [`EXPORTER`], empty for all of them: the part of a variable's name, and the part of a key.
const SIGNALS: [(&str, &str); 4] =
    [("", ""), ("LOGS_", "logs."), ("METRICS_", "metrics."), ("TRACES_", "traces.")];

/// The variables of [`EXPORTER`] with their keys.
fn exporter_variables() -> impl Iterator<Item = (String, String, &'static Form)> {
    SIGNALS.into_iter().flat_map(|(variable, group)| {
        EXPORTER.iter().map(move |(name, key, form)| {
            (format!("OTEL_EXPORTER_OTLP_{variable}{name}"), format!("export.{group}{key}"), form)
        })
    })
}

/// Variables that choose the exporter of a signal that the agent can send to one exporter or none: the
/// variable, the key of the endpoint, and the key that enables the export.
const SWITCHES: [(&str, &str, &str); 2] = [
    ("OTEL_METRICS_EXPORTER", "export.metrics.endpoint", "metrics.export"),
    ("OTEL_TRACES_EXPORTER", "export.traces.endpoint", "traces.export"),
];

/// Variables that the agent does not read, with the value that asks for what the agent does anyway.
const HARMLESS: &[(&str, &str)] = &[
    ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
    ("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "true"),
    ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "true"),
    ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true"),
];

/// Prefixes of variables that concern exports: a variable with such a name that has no effect is worth a
/// warning.
const RELEVANT_PREFIXES: &[&str] = &[
    "OTEL_EXPORTER_OTLP_",
    "OTEL_BLRP_",
    "OTEL_BSP_",
    "OTEL_TRACES_",
    "OTEL_LOGRECORD_",
    "OTEL_METRIC_EXPORT_",
];

/// The values that OpenTelemetry's variables set.
#[derive(Default)]
pub(super) struct Findings {
    /// Values that the file overrides.
    pub(super) fallback: Vec<Entry>,
    /// Values that override the file.
    pub(super) entries: Vec<Entry>,
    pub(super) warnings: Vec<String>,
    /// Attributes of the agent's own Resource.
    pub(super) resource: BTreeMap<String, String>,
}

/// Reads `env`.
pub(super) fn parse(env: &Environment) -> Findings {
    let mut findings = Findings::default();
    let read = Variables::new(env, &mut findings);
    let mapped = MAPPED.iter().map(|(variable, key, form)| ((*variable).to_owned(), (*key).to_owned(), form));
    for (variable, key, form) in exporter_variables().chain(mapped) {
        if let Some(text) = read.get(&variable) {
            match form.apply(text) {
                Ok(text) => findings.set(&key, &text, &variable),
                Err(cause) => findings.ignore(&variable, &cause),
            }
        }
    }
    if let Some(list) = read.get("OTEL_LOGS_EXPORTER") {
        findings.set_log_exporters(list);
    }
    for (variable, endpoint, switch) in SWITCHES {
        match read.get(variable) {
            None => {}
            Some("otlp") => findings.fall_back(endpoint, variable),
            Some("none") => findings.set(switch, "false", variable),
            Some(other) => findings.ignore(variable, &format!("{other:?} is not one of otlp, none")),
        }
    }
    // By the specification, the ratio sampler without a ratio samples everything.
    if read.get("OTEL_TRACES_SAMPLER").is_some_and(|name| name.ends_with("traceidratio"))
        && read.get("OTEL_TRACES_SAMPLER_ARG").is_none()
    {
        findings.set("traces.ratio", "1", "OTEL_TRACES_SAMPLER");
    }
    if let Some(text) = read.get("OTEL_SDK_DISABLED") {
        match text.to_ascii_lowercase().as_str() {
            "true" => findings.send_nothing("OTEL_SDK_DISABLED"),
            "false" => {}
            _ => findings.ignore("OTEL_SDK_DISABLED", &format!("{text:?} is neither true nor false")),
        }
    }
    findings.set_agent_resource(&read);
    findings.warn_of_unused(&read);
    findings
}

/// The `OTEL_*` variables that are text and not empty.
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
            Self::LowerCase => Ok(text.to_ascii_lowercase()),
            Self::Sampler => Ok(text.strip_prefix("parentbased_").unwrap_or(text).to_owned()),
            Self::Milliseconds => match text.parse::<u64>() {
                Ok(milliseconds) => Ok(format!("{milliseconds}ms")),
                Err(_) => Err(format!("{text:?} is not a number of milliseconds")),
            },
            Self::Path => match std::path::absolute(text) {
                Ok(path) => Ok(path.to_string_lossy().into_owned()),
                Err(error) => Err(format!("{text:?} is not a path: {error}")),
            },
        }
    }
}

impl Findings {
    fn set(&mut self, key: &str, text: &str, variable: &str) {
        self.entries.extend(entry(key, text, variable));
    }

    fn send_nothing(&mut self, variable: &str) {
        for key in
            ["export.endpoint", "export.logs.endpoint", "export.metrics.endpoint", "export.traces.endpoint"]
        {
            self.set(key, NO_ENDPOINT, variable);
        }
    }

    /// Sets the default endpoint, which any other endpoint overrides.
    fn fall_back(&mut self, key: &str, variable: &str) {
        let origin = Origin::Fallback(variable.to_owned());
        self.fallback.extend(entry(key, DEFAULT_ENDPOINT, variable).map(|entry| Entry { origin, ..entry }));
    }

    fn ignore(&mut self, variable: &str, cause: &str) {
        self.warnings.push(ignored(format_args!("env {variable}: {cause}")));
    }

    /// `OTEL_LOGS_EXPORTER`: a list of exporters that replaces every other choice.
    fn set_log_exporters(&mut self, list: &str) {
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
            self.fall_back("export.endpoint", VARIABLE);
        } else {
            self.set("export.logs.endpoint", NO_ENDPOINT, VARIABLE);
        }
        if known.contains(&"console") {
            self.set("output", "columns", VARIABLE);
        }
    }

    /// Sets the agent's own Resource. A list with any mistake is ignored as a whole, as the specification
    /// requires.
    fn set_agent_resource(&mut self, read: &Variables<'_>) {
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

    fn warn_of_unused(&mut self, read: &Variables<'_>) {
        for (name, value) in &read.0 {
            let is_relevant = RELEVANT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            let is_handled = MAPPED.iter().any(|(mapped, ..)| mapped == name)
                || exporter_variables().any(|(mapped, ..)| mapped == *name)
                || SWITCHES.iter().any(|(switch, ..)| switch == name)
                || HARMLESS.contains(&(name, value));
            if is_relevant && !is_handled {
                self.warnings
                    .push(format!("env {name}: acceptd does not support this variable; it has no effect"));
            }
        }
    }
}

fn entry(key: &str, text: &str, variable: &str) -> Option<Entry> {
    let (scope, key) = locate(key)?;
    Some(Entry { scope, key, raw: Raw::Word(text.to_owned()), origin: Origin::Env(variable.to_owned()) })
}

/// The warning for a value that is ignored; `cause` names its place, too.
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
        let exporter = exporter_variables().map(|(_, key, _)| key);
        let mapped = MAPPED.iter().map(|(_, key, _)| (*key).to_owned());
        let others = ["output", "export.endpoint", "export.logs.endpoint"].map(str::to_owned);
        let switches =
            SWITCHES.iter().flat_map(|(_, endpoint, switch)| [(*endpoint).to_owned(), (*switch).to_owned()]);
        for key in exporter.chain(mapped).chain(others).chain(switches) {
            assert!(locate(&key).is_some(), "{key}");
        }
    }
}
