//! What a spool sends after an outage: records three hours older than the newest of their streams, by `acceptd replay`.

use std::{
    fs::{
        File, {self},
    },
    io::{BufRead as _, BufReader},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stack::Behind;
use crate::{
    command,
    http::{
        encoded, {self},
    },
};

const LATE_NS: u64 = 3 * 3600 * 1_000_000_000;
const MINUTE_NS: u64 = 60 * 1_000_000_000;

/// One of them.
struct Late {
    service: String,
    uid: String,
    time: u64,
}

/// Sends a record of each service again as if it were older and another, and finds them in Loki and Elasticsearch.
pub(super) fn run(behind: &mut Behind, agent: &Path, records: &Path, folder: &Path) -> Result<String> {
    let (request, late) = older(last_accept(records)?)?;
    ensure!(late.len() > 1, "the request has only {} service", late.len());
    let file = folder.join("late.jsonl");
    fs::write(&file, format!("{request}\n")).with_context(|| format!("writing {}", file.display()))?;
    let mut replay = Command::new(agent);
    let config = folder.join("acceptd.toml");
    replay.args(["replay", "--endpoint", &format!("127.0.0.1:{}", behind.port), "--config"]);
    replay.arg(config).arg(&file);
    command::run(replay)?;
    for one in &late {
        behind.until_right("loki", |port| Ok(in_loki(port, one)))?;
        behind.until_right("elasticsearch", |port| Ok(in_elasticsearch(port, one)))?;
    }
    Ok(format!(
        "late: records of {} services, three hours older than their streams, found in Loki and Elasticsearch",
        late.len()
    ))
}

/// The last request with an accept of the slow server, and of others.
fn last_accept(records: &Path) -> Result<Value> {
    let file = File::open(records).with_context(|| format!("reading {}", records.display()))?;
    let mut last = None;
    for line in BufReader::new(file).lines() {
        let line = line?;
        if line.contains("\"stringValue\":\"slow\"") && line.contains("\"stringValue\":\"fast\"") {
            last = Some(line);
        }
    }
    serde_json::from_str(&last.context("no request has the slow server and the fast one")?)
        .context("not OTLP in JSON")
}

/// The request with nothing in it but one accept of each service, older and with a uid of its own.
fn older(mut request: Value) -> Result<(Value, Vec<Late>)> {
    let mut late = Vec::new();
    let resources = request["resourceLogs"].as_array_mut().context("no Resources")?;
    for resource in resources.iter_mut() {
        let service = attribute(&mut resource["resource"], "service.name")?["stringValue"].as_str();
        let service = service.context("a service.name that is no text")?.to_owned();
        let records = resource["scopeLogs"][0]["logRecords"].as_array_mut().context("no records")?;
        records.retain(|record| record["eventName"] == "acceptd.socket.accept");
        records.truncate(1);
        for record in records {
            late.push(age(record, service.clone())?);
        }
    }
    resources.retain(|resource| resource["scopeLogs"][0]["logRecords"] != json!([]));
    Ok((request, late))
}

fn age(record: &mut Value, service: String) -> Result<Late> {
    let mut time = 0;
    for name in ["timeUnixNano", "observedTimeUnixNano"] {
        let text = record[name].as_str().with_context(|| format!("no {name}"))?;
        time = text.parse::<u64>()?.checked_sub(LATE_NS).context("a time soon after 1970")?;
        record[name] = time.to_string().into();
    }
    let uid = attribute(record, "log.record.uid")?;
    let another = format!("late-{}", uid["stringValue"].as_str().context("a uid that is no text")?);
    uid["stringValue"] = another.clone().into();
    Ok(Late { service, uid: another, time })
}

/// The value of an attribute.
fn attribute<'a>(of: &'a mut Value, key: &str) -> Result<&'a mut Value> {
    let attributes = of["attributes"].as_array_mut().context("no attributes")?;
    let found = attributes.iter_mut().find(|one| one["key"] == key);
    Ok(&mut found.with_context(|| format!("no {key}"))?["value"])
}

fn in_loki(port: u16, Late { service, uid, time }: &Late) -> Result<()> {
    let query = encoded(&format!("{{service_name=\"{service}\"}} | log_record_uid=\"{uid}\""));
    let path =
        format!("/loki/api/v1/query_range?start={}&end={}&query={query}", time - MINUTE_NS, time + MINUTE_NS);
    let answer = http::get_json(port, &path)?;
    let found = answer["data"]["result"].as_array().map_or(0, Vec::len);
    ensure!(found == 1, "Loki has {found} of the late record");
    Ok(())
}

fn in_elasticsearch(port: u16, Late { uid, .. }: &Late) -> Result<()> {
    let query = json!({ "query": { "ids": { "values": [uid] } } });
    let answer = http::send_json("POST", port, "/logs-acceptd.otel-default/_search", &query)?;
    let found = &answer["hits"]["total"]["value"];
    ensure!(*found == 1, "Elasticsearch has {found} of the late record");
    Ok(())
}
