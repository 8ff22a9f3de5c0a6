//! The dashboards' expressions, with values in place of Grafana's variables.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::answer::Row;
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
    panel: String,
}

/// What stands in for the variables; longer names go before those that they begin with.
const VALUES: [(&str, &str); 10] = [
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
/// What is being gathered into a request when the counters are read: no more than there is in a second.
const GATHERED: (&str, f64) = ("Unaccounted for", 200.0);
/// Shown only while records wait for a destination that is away.
const SPOOL: &str = "acceptd_spool_records";
/// Panels of what may or may not be going on when they are asked.
const NOW: [&str; 4] =
    ["Use of the backlog", "Oldest wait", "Dropped and abandoned connections", "Program runs left out"];

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
            let name =
                format!("{}: {title}, {}", dashboard["title"].as_str().unwrap_or_default(), target["refId"]);
            let text = target["expr"].as_str().with_context(|| format!("{name} has no expr"))?;
            let with_values = |text: &str| {
                VALUES.iter().fold(text.to_owned(), |text, (variable, value)| text.replace(variable, value))
            };
            let (text, whole) = (with_values(text), with_values(&text.replace(INTERVAL, RANGE)));
            if text.contains('$') {
                bail!("{name}: nothing is known of a variable in {text}");
            }
            let backend = source.as_str().with_context(|| format!("{name} has no data source"))?.to_owned();
            all.push(Expression { name, backend, text, whole, panel: title.to_owned() });
        }
    }
    if all.is_empty() {
        bail!("a dashboard without expressions: {}", dashboard["title"]);
    }
    Ok(all)
}

/// What a panel shows of the whole of a run in which so many events are lost in a ring; nothing of a panel that is not of losses.
pub(super) fn lost(expression: &Expression, ring: u32) -> Option<RangeInclusive<f64>> {
    match expression.panel.as_str() {
        "Lost in the kernel" => Some(f64::from(ring)..=f64::from(ring)),
        "Lost in the agent" => Some(0.0..=0.0),
        "Not delivered" | "Not delivered, by reason" => Some(1.0..=f64::INFINITY),
        _ => None,
    }
}

/// Whether there are rows, and all within that.
pub(super) fn check_lost(lost: &RangeInclusive<f64>, rows: &[Row]) -> Result<()> {
    let number = |row: &Row| row.get("value").and_then(|value| value.parse::<f64>().ok());
    if rows.is_empty() || !rows.iter().all(|row| number(row).is_some_and(|number| lost.contains(&number))) {
        bail!("{lost:?} were lost, and it shows {rows:?}");
    }
    Ok(())
}

/// Whether an answer is what the panel would show now.
pub(super) fn check(expression: &Expression, rows: &[Row]) -> Result<()> {
    let numbers =
        || rows.iter().filter_map(|row| row.get("value")).filter_map(|value| value.parse::<f64>().ok());
    let panel = expression.panel.as_str();
    if panel == GATHERED.0
        && let Some(number) = numbers().find(|number| *number > GATHERED.1)
    {
        bail!("{number} records are in none of the counts");
    }
    if rows.is_empty() && !NOW.contains(&panel) && !expression.text.contains(SPOOL) {
        bail!("it shows nothing");
    }
    // Of a service at rest a quantile is none.
    if rows.iter().any(|row| row.contains_key("value")) && numbers().all(f64::is_nan) {
        bail!("it shows no number: {rows:?}");
    }
    Ok(())
}
