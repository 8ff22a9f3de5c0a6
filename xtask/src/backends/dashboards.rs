//! The dashboards' expressions, with values in place of Grafana's variables.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::questions::RANGE;

/// An expression of a panel.
pub(super) struct Expression {
    /// `dashboard: panel`, and which of its expressions.
    pub(super) name: String,
    /// Who is asked.
    pub(super) backend: String,
    pub(super) text: String,
    /// For the panels of what is lost: with the whole run as one interval.
    pub(super) whole: String,
    pub(super) panel: String,
    /// Which of the panel's expressions it is.
    pub(super) reference: String,
}

/// What stands in for the variables; longer names go before those that they begin with.
const VALUES: [(&str, &str); 11] = [
    // So that it is not of the time before something was missing.
    ("[5m:1m]", "[20s:2s]"),
    ("$__rate_interval", "30s"),
    (INTERVAL, "15s"),
    ("$__range", "30m"),
    ("$__auto", "30s"),
    ("$service", ".+"),
    ("$agent", "acceptd"),
    ("$host", ".*"),
    ("$peer", ".*"),
    ("$port", ".*"),
    ("$slow", "100000000"),
];

const INTERVAL: &str = "$__interval";
/// All of a folder.
pub(super) fn read(folder: &Path) -> Result<Vec<Expression>> {
    let about = || format!("reading {}", folder.display());
    let mut files: Vec<_> = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(about)?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(about)?;
        let dashboard =
            serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
        all.extend(expressions(&dashboard)?);
    }
    Ok(all)
}

fn expressions(dashboard: &Value) -> Result<Vec<Expression>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for panel in list(&dashboard["panels"]) {
        let title = panel["title"].as_str().context("a panel without a title")?;
        for target in list(&panel["targets"]) {
            let source = &target.get("datasource").unwrap_or(&panel["datasource"])["uid"];
            let reference = target["refId"].as_str().context("an expression without refId")?;
            let name = format!("{}: {title}, {reference}", dashboard["title"].as_str().unwrap_or_default());
            let text = target["expr"].as_str().with_context(|| format!("{name} has no expr"))?;
            let with_values = |text: &str| {
                VALUES.iter().fold(text.to_owned(), |text, (variable, value)| text.replace(variable, value))
            };
            let (text, whole) = (with_values(text), with_values(&text.replace(INTERVAL, RANGE)));
            if text.contains('$') {
                bail!("{name}: nothing is known of a variable in {text}");
            }
            let backend = source.as_str().with_context(|| format!("{name} has no data source"))?.to_owned();
            all.push(Expression {
                name,
                backend,
                text,
                whole,
                panel: title.to_owned(),
                reference: reference.to_owned(),
            });
        }
    }
    if all.is_empty() {
        bail!("a dashboard without expressions: {}", dashboard["title"]);
    }
    Ok(all)
}
