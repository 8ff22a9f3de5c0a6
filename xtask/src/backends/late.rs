//! What a spool sends after an outage: a record three hours older than the newest of its stream, by `acceptd replay`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stack::Behind;
use crate::command;
use crate::http::{self, encoded};

const LATE_NS: u64 = 3 * 3600 * 1_000_000_000;
const MINUTE_NS: u64 = 60 * 1_000_000_000;

/// Sends one record again as if it were older and another, and finds it in Loki and Elasticsearch.
pub(super) fn run(behind: &mut Behind, agent: &Path, records: &Path, folder: &Path) -> Result<String> {
    let (request, uid, time) = older(&an_accept(records)?)?;
    let file = folder.join("late.jsonl");
    fs::write(&file, format!("{request}\n")).with_context(|| format!("writing {}", file.display()))?;
    let mut replay = Command::new(agent);
    let config = folder.join("acceptd.toml");
    replay.args(["replay", "--endpoint", &format!("127.0.0.1:{}", behind.port), "--config"]);
    replay.arg(config).arg(&file);
    command::run(replay)?;
    behind.until_right("loki", |port| Ok(in_loki(port, &uid, time)))?;
    behind.until_right("elasticsearch", |port| Ok(in_elasticsearch(port, &uid)))?;
    Ok("late: a record three hours older than its stream, found in Loki and Elasticsearch".to_owned())
}

/// The last request with an accept of the slow server.
fn an_accept(records: &Path) -> Result<Value> {
    let file = File::open(records).with_context(|| format!("reading {}", records.display()))?;
    let mut last = None;
    for line in BufReader::new(file).lines() {
        let line = line?;
        if line.contains("\"acceptd.socket.accept\"") && line.contains("\"stringValue\":\"slow\"") {
            last = Some(line);
        }
    }
    serde_json::from_str(&last.context("no accept of the slow server")?).context("not OTLP in JSON")
}

/// The request with nothing in it but one accept, older and with a uid of its own; that uid, and the time.
fn older(request: &Value) -> Result<(Value, String, u64)> {
    let of_slow = |one: &&Value| one["resource"].to_string().contains("\"slow\"");
    let mut resource = request["resourceLogs"]
        .as_array()
        .and_then(|all| all.iter().find(of_slow))
        .context("no Resource of the slow server")?
        .clone();
    let is_accept = |record: &&Value| record["eventName"] == "acceptd.socket.accept";
    let mut record = resource["scopeLogs"][0]["logRecords"]
        .as_array()
        .and_then(|all| all.iter().find(is_accept))
        .context("no accept")?
        .clone();
    let mut time = 0;
    for name in ["timeUnixNano", "observedTimeUnixNano"] {
        let text = record[name].as_str().with_context(|| format!("no {name}"))?;
        time = text.parse::<u64>()?.checked_sub(LATE_NS).context("a time soon after 1970")?;
        record[name] = time.to_string().into();
    }
    let attributes = record["attributes"].as_array_mut().context("no attributes")?;
    let uid = attributes.iter_mut().find(|one| one["key"] == "log.record.uid").context("no uid")?;
    let another = format!("late-{}", uid["value"]["stringValue"].as_str().context("a uid that is no text")?);
    uid["value"]["stringValue"] = another.clone().into();
    resource["scopeLogs"][0]["logRecords"] = json!([record]);
    Ok((json!({ "resourceLogs": [resource] }), another, time))
}

fn in_loki(port: u16, uid: &str, time: u64) -> Result<()> {
    let query = encoded(&format!("{{service_name=\"slow\"}} | log_record_uid=\"{uid}\""));
    let path =
        format!("/loki/api/v1/query_range?start={}&end={}&query={query}", time - MINUTE_NS, time + MINUTE_NS);
    let answer = http::get_json(port, &path)?;
    let found = answer["data"]["result"].as_array().map_or(0, Vec::len);
    ensure!(found == 1, "Loki has {found} of the late record");
    Ok(())
}

fn in_elasticsearch(port: u16, uid: &str) -> Result<()> {
    let query = json!({ "query": { "ids": { "values": [uid] } } });
    let answer = http::send_json("POST", port, "/logs-acceptd.otel-default/_search", &query)?;
    let found = &answer["hits"]["total"]["value"];
    ensure!(*found == 1, "Elasticsearch has {found} of the late record");
    Ok(())
}
