//! Draws charts of dashboard expressions: queries Prometheus for the values, and runs gnuplot.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::dashboards::Expression;
use crate::http::{self, encoded};

/// A chart of the first expression of a dashboard panel.
struct Chart {
    file: &'static str,
    panel: &'static str,
    /// The label of the value axis.
    unit: &'static str,
    /// Additional gnuplot commands.
    commands: &'static str,
}

const CHARTS: [Chart; 4] = [
    Chart { file: "accepts", panel: "Accepts by service", unit: "accepts a second", commands: "" },
    Chart {
        file: "queue-time",
        panel: "Time in the accept queue, p50 and p99",
        unit: "99th percentile in s",
        commands: "set logscale y\nset format y '10^{%T}'\n",
    },
    Chart {
        file: "backlog",
        panel: "Use of the backlog",
        unit: "of the backlog",
        commands: "set yrange [0:]\n",
    },
    Chart {
        file: "failures",
        panel: "Failed accepts by error",
        unit: "failed accepts in 15 s",
        commands: "set yrange [0:]\n",
    },
];

const STEP_SECONDS: u64 = 5;

/// The panels show all services; a chart shows only those of the workload.
const ALL_SERVICES: &str = "acceptd_listener_service=~\".+\"";
const WORKLOAD_SERVICES: &str = "acceptd_listener_service=~\"fast|slow|crowded|exhausted|unix\"";

/// Draws each chart of the last `range` into its own file of `folder`, from Prometheus on this port.
pub(super) fn draw(port: u16, expressions: &[Expression], range: Duration, folder: &Path) -> Result<()> {
    for chart in &CHARTS {
        let infix = format!(": {}, ", chart.panel);
        let expression = expressions
            .iter()
            .find(|expression| expression.backend == "prometheus" && expression.name.contains(&infix))
            .with_context(|| format!("no Prometheus panel has the title {}", chart.panel))?;
        let end = Timestamp::now().as_second();
        let path = format!(
            "/api/v1/query_range?start={}&end={end}&step={STEP_SECONDS}&query={}",
            end - i64::try_from(range.as_secs())?,
            encoded(&expression.text.replace(ALL_SERVICES, WORKLOAD_SERVICES))
        );
        let script =
            script(chart, &http::get_json(port, &path)?, &folder.join(format!("{}.svg", chart.file)))?;
        let mut gnuplot =
            Command::new("gnuplot").stdin(Stdio::piped()).spawn().context("gnuplot did not start")?;
        gnuplot.stdin.take().context("no standard input")?.write_all(script.as_bytes())?;
        let status = gnuplot.wait()?;
        ensure!(status.success(), "gnuplot: {status} for {}", chart.file);
        println!("drew {}", chart.file);
    }
    Ok(())
}

fn script(chart: &Chart, answer: &Value, picture: &Path) -> Result<String> {
    let mut data = String::new();
    let mut lines = Vec::new();
    for (number, series) in answer["data"]["result"].as_array().context("no series")?.iter().enumerate() {
        let labels = series["metric"].as_object().context("no labels")?;
        let title: Vec<_> = labels.values().filter_map(Value::as_str).collect();
        writeln!(data, "$series{number} << END")?;
        for point in series["values"].as_array().context("no values")? {
            // The quantile of an empty histogram is NaN, which gnuplot skips.
            writeln!(data, "{} {}", point[0], point[1].as_str().context("a value that is not text")?)?;
        }
        writeln!(data, "END")?;
        let title = title.join(" ").replace('\'', "''");
        lines.push(format!("$series{number} using 1:2 with lines linewidth 2 title '{title}' noenhanced"));
    }
    ensure!(!lines.is_empty(), "no series for the chart {}", chart.panel);
    Ok(format!(
        "set terminal svg size 920,280 dynamic font 'DejaVu Sans,12' background '#ffffff'
set output '{}'
set title '{}'
set ylabel '{}'
set xdata time
set timefmt '%s'
set format x '%H:%M:%S'
set xtics 60
set key outside right top
set grid
{}{data}plot {}
",
        picture.display(),
        // The axis label names the expression, so only the panel's name before the comma is needed.
        chart.panel.split(',').next().unwrap_or_default(),
        chart.unit,
        chart.commands,
        lines.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_series_is_a_line_with_its_labels_as_title() {
        let answer = json!({ "data": { "result": [
            { "metric": { "a": "it's" }, "values": [[1, "2.5"], [2, "NaN"]] },
            { "metric": { "a": "x", "b": "y" }, "values": [[1, "1"]] } ] } });
        let script = script(&CHARTS[0], &answer, Path::new("p.svg")).expect("a chart");
        assert!(script.contains("$series0 << END\n1 2.5\n2 NaN\nEND\n$series1"), "{script}");
        assert!(script.contains("title 'it''s' noenhanced, $series1 using 1:2"), "{script}");
        assert!(script.contains("title 'x y'"), "{script}");
        let no_series = json!({ "data": { "result": [] } });
        assert!(super::script(&CHARTS[0], &no_series, Path::new("p.svg")).is_err());
    }
}
