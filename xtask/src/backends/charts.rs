//! Charts of the dashboards' expressions, as Prometheus answers them, drawn by gnuplot.

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
use crate::http::{
    encoded, {self},
};

/// One of a panel's first expression.
struct Chart {
    file: &'static str,
    panel: &'static str,
    /// Of its values.
    unit: &'static str,
    more: &'static str,
}

const CHARTS: [Chart; 4] = [
    Chart { file: "accepts", panel: "Accepts by service", unit: "accepts a second", more: "" },
    Chart {
        file: "queue-time",
        panel: "Time in the accept queue, p50 and p99",
        unit: "99th percentile in s",
        more: "set logscale y\nset format y '10^{%T}'\n",
    },
    Chart { file: "backlog", panel: "Use of the backlog", unit: "of the backlog", more: "set yrange [0:]\n" },
    Chart {
        file: "failures",
        panel: "Failed accepts by error",
        unit: "failed accepts in 15 s",
        more: "set yrange [0:]\n",
    },
];

const STEP_SECONDS: u64 = 5;

/// Whose listeners the panels show, and those that a chart has room for.
const EVERYBODY: &str = "acceptd_listener_service=~\".+\"";
const OF_THE_WORKLOAD: &str = "acceptd_listener_service=~\"fast|slow|crowded|exhausted|unix\"";

/// Draws each into a file of its own.
pub(super) fn draw(port: u16, expressions: &[Expression], range: Duration, folder: &Path) -> Result<()> {
    for chart in &CHARTS {
        let of_panel = format!(": {}, ", chart.panel);
        let expression = expressions
            .iter()
            .find(|one| one.backend == "prometheus" && one.name.contains(&of_panel))
            .with_context(|| format!("no panel of Prometheus is called {}", chart.panel))?;
        let end = Timestamp::now().as_second();
        let path = format!(
            "/api/v1/query_range?start={}&end={end}&step={STEP_SECONDS}&query={}",
            end - i64::try_from(range.as_secs())?,
            encoded(&expression.text.replace(EVERYBODY, OF_THE_WORKLOAD))
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
            // Of a quantile of nothing NaN, which gnuplot leaves out.
            writeln!(data, "{} {}", point[0], point[1].as_str().context("a value that is no text")?)?;
        }
        writeln!(data, "END")?;
        let title = title.join(" ").replace('\'', "''");
        lines.push(format!("$series{number} using 1:2 with lines linewidth 2 title '{title}' noenhanced"));
    }
    ensure!(!lines.is_empty(), "nothing to draw for {}", chart.panel);
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
        // Which of its expressions it is, the unit says.
        chart.panel.split(',').next().unwrap_or_default(),
        chart.unit,
        chart.more,
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
        let script = script(&CHARTS[0], &answer, Path::new("p.svg")).expect("good");
        assert!(script.contains("$series0 << END\n1 2.5\n2 NaN\nEND\n$series1"), "{script}");
        assert!(script.contains("title 'it''s' noenhanced, $series1 using 1:2"), "{script}");
        assert!(script.contains("title 'x y'"), "{script}");
        let nothing = json!({ "data": { "result": [] } });
        assert!(super::script(&CHARTS[0], &nothing, Path::new("p.svg")).is_err());
    }
}
