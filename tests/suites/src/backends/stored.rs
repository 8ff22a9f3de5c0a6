//! Reads the uids (`log.record.uid`) of the records that a backend has stored.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::http::{self, encoded};

/// How many records to request at a time: as many as the default limits of both backends allow.
const PAGE: usize = 5000;

/// The records that a backend has stored.
pub(super) struct Stored {
    pub(super) uids: HashSet<String>,
    /// How many records there are, including duplicates.
    pub(super) records: usize,
}

impl Stored {
    /// Fails unless exactly the records with these uids are stored. Returns how many stored records are
    /// duplicates.
    pub(super) fn duplicates(&self, wanted: &HashSet<String>) -> Result<usize> {
        let (missing, surplus) =
            (wanted.difference(&self.uids).count(), self.uids.difference(wanted).count());
        ensure!(
            missing == 0 && surplus == 0,
            "of {} records {missing} are missing, and {surplus} other records are stored",
            wanted.len()
        );
        self.records.checked_sub(self.uids.len()).context("fewer records than uids")
    }
}

/// Reads the records in Elasticsearch that match a query.
pub(super) fn in_elasticsearch(port: u16, query: &Value) -> Result<Stored> {
    http::get_json(port, "/logs-acceptd.otel-default/_refresh")?;
    // With a point in time, all pages are read from the same state of the index.
    let opened = http::send_json("POST", port, "/logs-acceptd.otel-default/_pit?keep_alive=2m", &json!({}))?;
    let mut stored = Stored { uids: HashSet::new(), records: 0 };
    let mut page = json!({ "query": query, "size": PAGE, "_source": false, "sort": ["_shard_doc"],
        "docvalue_fields": ["attributes.log.record.uid"], "track_total_hits": false,
        "pit": { "id": opened["id"], "keep_alive": "2m" } });
    loop {
        let answer = http::send_json("POST", port, "/_search", &page)?;
        let hits = answer["hits"]["hits"].as_array().context("no hits")?;
        for hit in hits {
            let uid =
                hit["fields"]["attributes.log.record.uid"][0].as_str().context("a record without a uid")?;
            stored.uids.insert(uid.to_owned());
        }
        stored.records += hits.len();
        match hits.last() {
            Some(last) => page["search_after"] = last["sort"].clone(),
            None => return Ok(stored),
        }
    }
}

/// How many documents the index has refused since it was created: documents whose id it already has, because
/// they were sent again.
pub(super) fn refused_by_elasticsearch(port: u16) -> Result<u64> {
    let stats = http::get_json(port, "/logs-acceptd.otel-default/_stats/indexing")?;
    let refused = &stats["_all"]["primaries"]["indexing"]["index_failed"];
    refused.as_u64().with_context(|| format!("index_failed is {refused}"))
}

/// Reads the records in Loki that are not older than `since`.
pub(super) fn in_loki(port: u16, since: Timestamp) -> Result<Stored> {
    let end = Timestamp::now();
    let uids = uids_in_loki(port, since, end)?;
    let seconds = end.as_second() - since.as_second() + 1;
    let count = encoded(&format!("sum(count_over_time({{service_name=~\".+\"}}[{seconds}s]))"));
    let path = format!("/loki/api/v1/query?time={}&query={count}", end.as_nanosecond());
    let answer = http::get_json(port, &path)?;
    let records = answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse().ok());
    Ok(Stored { uids, records: records.context("no count")? })
}

/// Reads the uids page by page, in the order of time.
fn uids_in_loki(port: u16, since: Timestamp, end: Timestamp) -> Result<HashSet<String>> {
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
        ensure!(
            last > start,
            "a page of {PAGE} records has a single time, so the next page cannot be requested"
        );
        // The next page begins with the records of this time again; the set holds each uid only once.
        start = last;
    }
}
