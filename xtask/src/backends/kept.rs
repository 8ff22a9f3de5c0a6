//! Which records a backend keeps: all of them, by `log.record.uid`.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::http::{
    encoded, {self},
};

/// How many are asked for at a time: as many as each backend gives without being told to give more.
const PAGE: usize = 5000;

/// What is there.
pub(super) struct Kept {
    pub(super) uids: HashSet<String>,
    /// Records, each as often as it is there.
    pub(super) records: usize,
}

impl Kept {
    /// Fails unless these are there, and no others; returns how many records are there again.
    pub(super) fn again(&self, wanted: &HashSet<String>) -> Result<usize> {
        let (missing, more) = (wanted.difference(&self.uids).count(), self.uids.difference(wanted).count());
        ensure!(
            missing == 0 && more == 0,
            "of {} records {missing} are missing, and {more} others are there",
            wanted.len()
        );
        self.records.checked_sub(self.uids.len()).context("fewer records than uids")
    }
}

/// Of Elasticsearch: the documents of a query.
pub(super) fn of_elasticsearch(port: u16, query: &Value) -> Result<Kept> {
    http::get_json(port, "/logs-acceptd.otel-default/_refresh")?;
    // One state of the index for all pages.
    let opened = http::send_json("POST", port, "/logs-acceptd.otel-default/_pit?keep_alive=2m", &json!({}))?;
    let mut kept = Kept { uids: HashSet::new(), records: 0 };
    let mut page = json!({ "query": query, "size": PAGE, "_source": false, "sort": ["_shard_doc"],
        "docvalue_fields": ["attributes.log.record.uid"], "track_total_hits": false,
        "pit": { "id": opened["id"], "keep_alive": "2m" } });
    loop {
        let answer = http::send_json("POST", port, "/_search", &page)?;
        let hits = answer["hits"]["hits"].as_array().context("no hits")?;
        for hit in hits {
            let uid =
                hit["fields"]["attributes.log.record.uid"][0].as_str().context("a record without a uid")?;
            kept.uids.insert(uid.to_owned());
        }
        kept.records += hits.len();
        match hits.last() {
            Some(last) => page["search_after"] = last["sort"].clone(),
            None => return Ok(kept),
        }
    }
}

/// Documents that were refused since the index is there: those that were sent again, by their ids.
pub(super) fn refused_by_elasticsearch(port: u16) -> Result<u64> {
    let stats = http::get_json(port, "/logs-acceptd.otel-default/_stats/indexing")?;
    let refused = &stats["_all"]["primaries"]["indexing"]["index_failed"];
    refused.as_u64().with_context(|| format!("index_failed is {refused}"))
}

/// Of Loki: what is not older than `since`.
pub(super) fn of_loki(port: u16, since: Timestamp) -> Result<Kept> {
    let end = Timestamp::now();
    let uids = uids_of_loki(port, since, end)?;
    let seconds = end.as_second() - since.as_second() + 1;
    let count = encoded(&format!("sum(count_over_time({{service_name=~\".+\"}}[{seconds}s]))"));
    let path = format!("/loki/api/v1/query?time={}&query={count}", end.as_nanosecond());
    let answer = http::get_json(port, &path)?;
    let records = answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse().ok());
    Ok(Kept { uids, records: records.context("no count")? })
}

/// Page by page.
fn uids_of_loki(port: u16, since: Timestamp, end: Timestamp) -> Result<HashSet<String>> {
    let query = encoded("{service_name=~\".+\"} | keep log_record_uid | line_format `-`");
    let (mut uids, mut start) = (HashSet::new(), since.as_nanosecond());
    loop {
        let path = format!(
            "/loki/api/v1/query_range?direction=forward&limit={PAGE}&start={start}&end={}&query={query}",
            end.as_nanosecond()
        );
        let answer = http::get_json(port, &path)?;
        let (mut found, mut last) = (0, start);
        for stream in answer["data"]["result"].as_array().context("no streams")? {
            let uid = stream["stream"]["log_record_uid"].as_str().context("a record without a uid")?;
            uids.insert(uid.to_owned());
            for entry in stream["values"].as_array().context("no entries")? {
                found += 1;
                let time = entry[0].as_str().and_then(|text| text.parse().ok());
                last = last.max(time.context("an entry without a time")?);
            }
        }
        if found < PAGE {
            return Ok(uids);
        }
        ensure!(last > start, "{PAGE} records of one nanosecond");
        // Those of this very time come again: a uid counts once.
        start = last;
    }
}
