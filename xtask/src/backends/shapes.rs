//! How the backends keep what they got: Elasticsearch each key with the type that the registry says, Loki no more streams than there
//! are services.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stack::Behind;
use crate::{http, workspace::Workspace};

/// What a process may publish of itself, whatever it calls it.
const OTHERS: [&str; 2] = ["resource.attributes.service.", "resource.attributes.deployment."];

/// Types of fields by their paths.
type Types = BTreeMap<String, String>;

/// What there is to say of those that run.
pub(super) fn of(workspace: &Workspace, behind: &Behind) -> Result<Vec<String>> {
    let keys = mapping(workspace, behind.backends["elasticsearch"].port)?;
    let mut lines = vec![format!(
        "types: by its _mapping all fields of Elasticsearch are as the registry says; {keys} of them arrived"
    )];
    if let Some(loki) = behind.backends.get("loki") {
        lines.push(format!("streams: {} of Loki, one for each service of a host", streams(loki.port)?));
    }
    Ok(lines)
}

/// By Elasticsearch's own mapping every key of the template has its type, and any other attribute is one that a process chose itself;
/// returns how many keys arrived.
fn mapping(workspace: &Workspace, port: u16) -> Result<usize> {
    let mut count = 0;
    for signal in ["logs", "traces"] {
        let file = format!("otel-config/elastic/{signal}-acceptd.json");
        let template: Value =
            serde_json::from_str(&fs::read_to_string(workspace.path(&file)).with_context(|| file.clone())?)?;
        let stream = format!("/{signal}-acceptd.otel-default");
        let found = http::get_json(port, &format!("{stream}/_mapping"))?;
        let indices = found.as_object().context("no indices")?;
        ensure!(!indices.is_empty(), "{stream} has no index");
        for (index, found) in indices {
            differ(&types(&template["template"]["mappings"]), &types(&found["mappings"]))
                .with_context(|| format!("{index} is not as {file} says"))?;
        }
        let arrived = http::get_json(
            port,
            &format!("{stream}/_field_caps?fields=*attributes.*&include_empty_fields=false"),
        )?;
        let keys = arrived["fields"].as_object().context("no fields")?;
        let is_own = |(key, kinds): &(&String, &Value)| kinds.get("object").is_none() && !is_of_others(key);
        let of_signal = keys.iter().filter(is_own).count();
        ensure!(of_signal > 0, "no field of {stream} has a value");
        count += of_signal;
    }
    Ok(count)
}

fn is_of_others(key: &str) -> bool {
    OTHERS.iter().any(|other| key.starts_with(other))
}

/// Fails with the first field that has another type or is missing, or attribute that was guessed.
fn differ(wanted: &Types, found: &Types) -> Result<()> {
    for (key, kind) in wanted {
        ensure!(found.get(key) == Some(kind), "{key} is {:?}, not {kind}", found.get(key));
    }
    // What the exporter puts around attributes is its own.
    let is_ours = |key: &&String| key.contains("attributes.") && !is_of_others(key);
    let guessed = found.keys().filter(is_ours).find(|key| !wanted.contains_key(*key));
    ensure!(guessed.is_none(), "{guessed:?} was guessed");
    Ok(())
}

/// Of each field; keys with dots and objects are the same to Elasticsearch.
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
            // An address is also a field of another type.
            for (more, field) in field["fields"].as_object().into_iter().flatten() {
                types.insert(format!("{path}.{more}"), field["type"].as_str().unwrap_or_default().to_owned());
            }
            types.insert(path, kind.to_owned());
        }
    }
}

/// Loki has one stream for each service of a host; returns how many.
fn streams(port: u16) -> Result<usize> {
    let query = http::encoded("{service_name=~\".+\"}");
    let answer = http::get_json(port, &format!("/loki/api/v1/series?match%5B%5D={query}"))?;
    let series = answer["data"].as_array().context("no series")?;
    let label = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
    let pairs: BTreeSet<_> =
        series.iter().map(|one| (label(one, "service_name"), label(one, "host_name"))).collect();
    ensure!(
        !series.is_empty() && series.len() <= pairs.len(),
        "{} streams of {} services and hosts",
        series.len(),
        pairs.len()
    );
    let others = series.iter().find(|one| one.as_object().is_some_and(|labels| labels.len() != 2));
    ensure!(others.is_none(), "a stream has other labels: {others:?}");
    Ok(series.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Types, differ, types};

    #[test]
    fn another_type_and_a_guess_are_found() {
        let of = |pairs: &[(&str, &str)]| -> Types {
            pairs.iter().map(|(key, kind)| ((*key).to_owned(), (*kind).to_owned())).collect()
        };
        let wanted = of(&[("attributes.a", "long")]);
        assert!(
            differ(&wanted, &of(&[("attributes.a", "long"), ("resource.attributes.service.x", "keyword")]))
                .is_ok()
        );
        for wrong in
            [&[("attributes.a", "keyword")][..], &[], &[("attributes.a", "long"), ("attributes.b", "long")]]
        {
            assert!(differ(&wanted, &of(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_with_dots_is_objects() {
        let flat = json!({ "properties": { "attributes": { "properties": { "a.b": { "type": "long" } } } } });
        let nested = json!({ "properties": { "attributes": { "properties": { "a": { "properties":
            { "b": { "type": "long" } } } } } } });
        assert_eq!(types(&flat), types(&nested));
        assert_eq!(
            types(&flat).into_iter().collect::<Vec<_>>(),
            [("attributes.a.b".to_owned(), "long".to_owned())]
        );
    }
}
