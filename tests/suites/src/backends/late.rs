//! Checks that backends accept late records, as a spool sends them after an outage: `acceptd replay` sends
//! records that are three hours older than the newest ones of their streams.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::Command,
};

use acceptd_otlp::names;
use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
};
use serde_json::json;
use xtask_support::command;

use super::stack::Pipeline;
use crate::{
    http::{self, encoded},
    records::{parse_request, text},
};

const LATE_NS: u64 = 3 * 3600 * 1_000_000_000;
const MINUTE_NS: u64 = 60 * 1_000_000_000;

/// A record that was sent late.
struct LateRecord {
    service: String,
    uid: String,
    time: u64,
}

/// Sends an older copy, with another uid, of one record of each service, and finds the copies in Loki and
/// Elasticsearch. Returns a line to report.
pub(super) fn run(pipeline: &mut Pipeline, agent: &Path, records: &Path, folder: &Path) -> Result<String> {
    let (request, late) = make_older(last_request(records)?)?;
    ensure!(late.len() > 1, "the request has records of {} service only", late.len());
    let file = folder.join("late.jsonl");
    let line = serde_json::to_string(&request).context("a request as JSON")?;
    fs::write(&file, format!("{line}\n")).with_context(|| format!("writing {}", file.display()))?;
    let mut replay = Command::new(agent);
    let config = folder.join("acceptd.toml");
    replay.args(["replay", "--endpoint", &format!("127.0.0.1:{}", pipeline.port), "--config"]);
    replay.arg(config).arg(&file);
    command::run(replay)?;
    for record in &late {
        pipeline.until_right("loki", |port| Ok(find_in_loki(port, record)))?;
        pipeline.until_right("elasticsearch", |port| Ok(find_in_elasticsearch(port, record)))?;
    }
    Ok(format!(
        "late: records of {} services, three hours older than their streams, found in Loki and Elasticsearch",
        late.len()
    ))
}

/// The last export request in the agent's file that has records of both the slow and the fast server.
fn last_request(records: &Path) -> Result<ExportLogsServiceRequest> {
    let file = File::open(records).with_context(|| format!("reading {}", records.display()))?;
    let mut last = None;
    for line in BufReader::new(file).lines() {
        let line = line?;
        if line.contains("\"stringValue\":\"slow\"") && line.contains("\"stringValue\":\"fast\"") {
            last = Some(line);
        }
    }
    parse_request(last.context("no request has records of both the slow and the fast server")?.as_bytes())
}

/// Keeps one accept of each service, sets its times back by [`LATE_NS`] and gives it another uid.
fn make_older(mut request: ExportLogsServiceRequest) -> Result<(ExportLogsServiceRequest, Vec<LateRecord>)> {
    let mut late = Vec::new();
    for resource_logs in &mut request.resource_logs {
        let attributes = resource_logs.resource.as_mut().context("no Resource")?.attributes.as_mut_slice();
        let service = text(Some(attribute(attributes, names::SERVICE_NAME)?.clone()));
        resource_logs.scope_logs.truncate(1);
        for scope in &mut resource_logs.scope_logs {
            scope.log_records.retain(|record| record.event_name == names::EVENT_ACCEPTD_SOCKET_ACCEPT);
            scope.log_records.truncate(1);
            for record in &mut scope.log_records {
                late.push(make_late(record, service.clone())?);
            }
        }
        resource_logs.scope_logs.retain(|scope| !scope.log_records.is_empty());
    }
    request.resource_logs.retain(|resource_logs| !resource_logs.scope_logs.is_empty());
    Ok((request, late))
}

fn make_late(record: &mut LogRecord, service: String) -> Result<LateRecord> {
    let earlier = |time: u64| {
        time.checked_sub(LATE_NS).context("the time of a record is less than three hours after 1970")
    };
    record.time_unix_nano = earlier(record.time_unix_nano)?;
    record.observed_time_unix_nano = earlier(record.observed_time_unix_nano)?;
    let uid = attribute(&mut record.attributes, names::LOG_RECORD_UID)?;
    let another = format!("late-{}", text(Some(uid.clone())));
    uid.value = Some(Value::StringValue(another.clone()));
    Ok(LateRecord { service, uid: another, time: record.observed_time_unix_nano })
}

/// The value of an attribute, for writing. Fails if there is none.
fn attribute<'a>(attributes: &'a mut [KeyValue], key: &str) -> Result<&'a mut AnyValue> {
    let found = attributes.iter_mut().find(|attribute| attribute.key == key);
    found.and_then(|attribute| attribute.value.as_mut()).with_context(|| format!("no {key}"))
}

fn find_in_loki(port: u16, LateRecord { service, uid, time }: &LateRecord) -> Result<()> {
    let query = encoded(&format!("{{service_name=\"{service}\"}} | log_record_uid=\"{uid}\""));
    let path =
        format!("/loki/api/v1/query_range?start={}&end={}&query={query}", time - MINUTE_NS, time + MINUTE_NS);
    let answer = http::get_json(port, &path)?;
    let found = answer["data"]["result"].as_array().map_or(0, Vec::len);
    ensure!(found == 1, "Loki has the late record {found} times");
    Ok(())
}

fn find_in_elasticsearch(port: u16, LateRecord { uid, .. }: &LateRecord) -> Result<()> {
    let query = json!({ "query": { "ids": { "values": [uid] } } });
    let answer = http::send_json("POST", port, "/logs-acceptd.otel-default/_search", &query)?;
    let found = &answer["hits"]["total"]["value"];
    ensure!(*found == 1, "Elasticsearch has the late record {found} times");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{LATE_NS, make_older, parse_request};

    #[test]
    fn one_older_accept_of_each_service_remains() {
        let record = |event: &str, uid: &str| {
            format!(
                r#"{{"eventName":"{event}","timeUnixNano":"{0}","observedTimeUnixNano":"{1}",
                "attributes":[{{"key":"log.record.uid","value":{{"stringValue":"{uid}"}}}}]}}"#,
                LATE_NS + 1,
                LATE_NS + 2
            )
        };
        let resource = |service: &str, records: &[String]| {
            format!(
                r#"{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"{service}"}}}}]}},
                "scopeLogs":[{{"logRecords":[{}]}}]}}"#,
                records.join(",")
            )
        };
        let accept = |uid| record("acceptd.socket.accept", uid);
        let line = format!(
            r#"{{"resourceLogs":[{},{},{}]}}"#,
            resource("slow", &[record("acceptd.socket.bind", "a"), accept("b"), accept("c")]),
            resource("agent", &[record("acceptd.agent.started", "d")]),
            resource("fast", &[accept("e")])
        );
        let (request, late) = make_older(parse_request(line.as_bytes()).expect("a request")).expect("good");
        assert_eq!(request.resource_logs.len(), 2);
        let found: Vec<_> =
            late.iter().map(|late| (late.service.as_str(), late.uid.as_str(), late.time)).collect();
        assert_eq!(found, [("slow", "late-b", 2), ("fast", "late-e", 2)]);
        let record = &request.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!((record.time_unix_nano, record.observed_time_unix_nano), (1, 2));
    }
}
