//! Checks how the backends store records: Elasticsearch must give each key the type of the registry, and Loki
//! must not have more streams than there are services.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stack::Pipeline;
use crate::{http, suite::Suite};

/// Prefixes of attributes that a process may declare about itself, so the registry does not list all of them.
const DECLARED_PREFIXES: [&str; 2] = ["resource.attributes.service.", "resource.attributes.deployment."];

/// The types of fields, by path.
type Types = BTreeMap<String, String>;

/// Checks Elasticsearch, and Loki if it runs. Returns lines to report.
pub(super) fn check(suite: &Suite, pipeline: &Pipeline) -> Result<Vec<String>> {
    let keys = check_mapping(suite, pipeline.backends["elasticsearch"].port)?;
    let mut lines = vec![format!(
        "types: by its _mapping all fields of Elasticsearch are as the registry says; {keys} of them arrived"
    )];
    if let Some(loki) = pipeline.backends.get("loki") {
        lines.push(format!("streams: {} of Loki, one for each service of a host", check_streams(loki.port)?));
    }
    Ok(lines)
}

/// Checks Elasticsearch's mapping: each key of the template has its type, and every other attribute is one
/// that a process may declare. Returns how many keys of the template have values.
fn check_mapping(suite: &Suite, port: u16) -> Result<usize> {
    let mut count = 0;
    for signal in ["logs", "traces"] {
        let file = format!("otel-config/elastic/{signal}-acceptd.json");
        let template: Value =
            serde_json::from_str(&fs::read_to_string(suite.path(&file)).with_context(|| file.clone())?)?;
        let stream = format!("/{signal}-acceptd.otel-default");
        let found = http::get_json(port, &format!("{stream}/_mapping"))?;
        let indices = found.as_object().context("no indices")?;
        ensure!(!indices.is_empty(), "{stream} has no index");
        for (index, found) in indices {
            compare(&types(&template["template"]["mappings"]), &types(&found["mappings"]))
                .with_context(|| format!("{index} is not as {file} says"))?;
        }
        let arrived = http::get_json(
            port,
            &format!("{stream}/_field_caps?fields=*attributes.*&include_empty_fields=false"),
        )?;
        let keys = arrived["fields"].as_object().context("no fields")?;
        let is_registered =
            |(key, kinds): &(&String, &Value)| kinds.get("object").is_none() && !is_declared(key);
        let count_of_signal = keys.iter().filter(is_registered).count();
        ensure!(count_of_signal > 0, "no field of {stream} has a value");
        count += count_of_signal;
    }
    Ok(count)
}

fn is_declared(key: &str) -> bool {
    DECLARED_PREFIXES.iter().any(|other| key.starts_with(other))
}

/// Fails with the first field that is missing or has another type, or else with the first attribute that is
/// not in the template, so that Elasticsearch guessed its type.
fn compare(wanted: &Types, found: &Types) -> Result<()> {
    for (key, kind) in wanted {
        ensure!(found.get(key) == Some(kind), "{key} is {:?}, not {kind}", found.get(key));
    }
    // The fields outside of `attributes` are defined by the exporter of the Collector.
    let is_ours = |key: &&String| key.contains("attributes.") && !is_declared(key);
    let guessed = found.keys().filter(is_ours).find(|key| !wanted.contains_key(*key));
    ensure!(guessed.is_none(), "Elasticsearch guessed the type of {guessed:?}, which is not in the template");
    Ok(())
}

/// The type of each field by its path. Elasticsearch does not distinguish a key with dots from nested
/// objects.
fn types(mappings: &Value) -> Types {
    let mut types = Types::new();
    collect(&mappings["properties"], "", &mut types);
    types
}

fn collect(properties: &Value, before: &str, types: &mut Types) {
    for (name, field) in properties.as_object().into_iter().flatten() {
        let path = format!("{before}{name}");
        collect(&field["properties"], &format!("{path}."), types);
        if let Some(kind) = field["type"].as_str().filter(|_| field.get("properties").is_none()) {
            // An address is also indexed as a second field with the type `ip`.
            for (more, field) in field["fields"].as_object().into_iter().flatten() {
                types.insert(format!("{path}.{more}"), field["type"].as_str().unwrap_or_default().to_owned());
            }
            types.insert(path, kind.to_owned());
        }
    }
}

/// Checks that Loki has only one stream for each service of a host. Returns the number of streams.
fn check_streams(port: u16) -> Result<usize> {
    let query = http::encoded("{service_name=~\".+\"}");
    let answer = http::get_json(port, &format!("/loki/api/v1/series?match%5B%5D={query}"))?;
    let series = answer["data"].as_array().context("no series")?;
    let label = |stream: &Value, name: &str| stream[name].as_str().unwrap_or_default().to_owned();
    let pairs: BTreeSet<_> =
        series.iter().map(|stream| (label(stream, "service_name"), label(stream, "host_name"))).collect();
    ensure!(
        !series.is_empty() && series.len() <= pairs.len(),
        "{} streams of {} services and hosts",
        series.len(),
        pairs.len()
    );
    let others = series.iter().find(|stream| stream.as_object().is_some_and(|labels| labels.len() != 2));
    ensure!(others.is_none(), "a stream has other labels: {others:?}");
    Ok(series.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Types, compare, types};

    #[test]
    fn another_type_and_a_guessed_type_are_errors() {
        let to_types = |pairs: &[(&str, &str)]| -> Types {
            pairs.iter().map(|(key, kind)| ((*key).to_owned(), (*kind).to_owned())).collect()
        };
        let wanted = to_types(&[("attributes.a", "long")]);
        assert!(
            compare(
                &wanted,
                &to_types(&[("attributes.a", "long"), ("resource.attributes.service.x", "keyword")])
            )
            .is_ok()
        );
        for wrong in
            [&[("attributes.a", "keyword")][..], &[], &[("attributes.a", "long"), ("attributes.b", "long")]]
        {
            assert!(compare(&wanted, &to_types(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_with_dots_equals_nested_objects() {
        let flatten =
            json!({ "properties": { "attributes": { "properties": { "a.b": { "type": "long" } } } } });
        let nested = json!({ "properties": { "attributes": { "properties": { "a": { "properties":
            { "b": { "type": "long" } } } } } } });
        assert_eq!(types(&flatten), types(&nested));
        assert_eq!(
            types(&flatten).into_iter().collect::<Vec<_>>(),
            [("attributes.a.b".to_owned(), "long".to_owned())]
        );
    }
}
