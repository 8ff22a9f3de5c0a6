//! Reads the expressions of the dashboards, and replaces Grafana's variables by values.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::queries::RANGE;

/// One expression of a dashboard panel.
pub(super) struct Expression {
    /// `DASHBOARD: PANEL, REFERENCE`
    pub(super) name: String,
    /// The backend to ask.
    pub(super) backend: String,
    pub(super) text: String,
    /// The expression with `$__interval` set to the whole run, for panels that show losses.
    pub(super) over_whole_run: String,
    pub(super) panel: String,
    /// The `refId` of the expression in its panel.
    pub(super) reference: String,
}

/// The values of the variables. A longer name stands before its prefixes, which would otherwise replace part
/// of it.
const VALUES: [(&str, &str); 11] = [
    // A window shorter than the run, so that it does not begin before the first loss.
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

/// Reads the expressions of all dashboards (`*.json`) in a folder.
pub(super) fn read(folder: &Path) -> Result<Vec<Expression>> {
    let context = || format!("reading {}", folder.display());
    let mut files: Vec<_> = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(context)?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(context)?;
        let dashboard =
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
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
            let (text, over_whole_run) = (with_values(text), with_values(&text.replace(INTERVAL, RANGE)));
            if text.contains('$') {
                bail!(
                    "{name}: a variable in {text} has no value: add it to tests/suites/src/backends/dashboards.rs"
                );
            }
            let backend = source.as_str().with_context(|| format!("{name} has no data source"))?.to_owned();
            all.push(Expression {
                name,
                backend,
                text,
                over_whole_run,
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
