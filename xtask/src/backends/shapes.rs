//! How the backends keep what they got: Elasticsearch each key with the type that the registry says, Loki no more streams than there
//! are services.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stack::Behind;
use crate::http;
use crate::workspace::Workspace;

/// What a process may publish of itself, whatever it calls it.
const OTHERS: [&str; 2] = ["resource.attributes.service.", "resource.attributes.deployment."];

/// Types of fields by their paths.
type Types = BTreeMap<String, String>;

/// What there is to say of those that run.
pub(super) fn of(workspace: &Workspace, behind: &Behind) -> Result<Vec<String>> {
    let keys = mapping(workspace, behind.backends["elasticsearch"].port)?;
    let mut lines = vec![format!("types: {keys} fields of Elasticsearch, each as the registry says")];
    if let Some(loki) = behind.backends.get("loki") {
        lines.push(format!("streams: {} of Loki, one for each service of a host", streams(loki.port)?));
    }
    Ok(lines)
}

/// Every key that arrived has the type that the template gives it, and none was guessed; returns how many keys arrived.
fn mapping(workspace: &Workspace, port: u16) -> Result<usize> {
    let mut count = 0;
    for signal in ["logs", "traces"] {
        let file = format!("otel-config/elastic/{signal}-acceptd.json");
        let template: Value =
            serde_json::from_str(&fs::read_to_string(workspace.path(&file)).with_context(|| file.clone())?)?;
        let wanted = types(&template["template"]["mappings"]);
        let path = format!(
            "/{signal}-acceptd.otel-default/_field_caps?fields=*attributes.*&include_empty_fields=false"
        );
        let found = http::get_json(port, &path)?;
        for (key, kinds) in found["fields"].as_object().context("no fields")? {
            let kinds = kinds.as_object().context("no types")?;
            if kinds.contains_key("object") || OTHERS.iter().any(|other| key.starts_with(other)) {
                continue;
            }
            let kinds: Vec<&str> = kinds.keys().map(String::as_str).collect();
            // An address is also a field of another type.
            let known = match key.strip_suffix(".ip") {
                Some(address) => wanted.get(address).map(|_| "ip"),
                None => wanted.get(key).map(String::as_str),
            };
            ensure!(
                known.is_some_and(|known| kinds == [known]),
                "{signal}: {key} is {kinds:?}, by {file} {known:?}"
            );
            count += 1;
        }
    }
    ensure!(count > 0, "no field has a value");
    Ok(count)
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

    use super::types;

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
