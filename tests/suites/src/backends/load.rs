//! Runs the load: a thousand events per second for five minutes, from 5,000 addresses, into all backends at
//! once. Afterwards compares the records and spans that each backend has stored with the agent's own file and
//! its ledger.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    answer::{self, Row},
    ask,
    crowd::{Crowd, CrowdPlan},
    expected::LOOPBACK,
    queries::{RANGE, Values},
    questions::Questions,
    recorded::{Recorded, RecordedAccept},
    stack::{Pipeline, Stack},
    stored::{self, Stored},
    workload::{Workload, WorkloadServer},
};
use crate::{host, http, ledger::Ledger, process::until_after};

/// Each connection is two events: the client binds its address, and the server accepts.
const PLAN: CrowdPlan = CrowdPlan { rate: 500, seconds: 300, addresses: 5000 };
const TRACES: usize = 100;
/// How many addresses the `top-peers` queries return.
const TOP_PEERS: usize = 10;

/// An agent that keeps up has fewer unacknowledged records than this; there are always some, because the
/// workload goes on.
const NORMALLY_UNACKNOWLEDGED: u64 = 500;
/// How long the delivery of the unacknowledged records may take. It normally takes far less.
const DELIVERY: Duration = Duration::from_mins(10);
/// How long a comparison may take: several times as long as it takes to read all records from a backend.
const PATIENCE: Duration = Duration::from_mins(5);
const SERVICE: &str = "loaded";
/// The title of the dashboard panel that shows scanners.
const MOST_LISTENERS: &str = "Most listeners for one peer";
/// The backends that store log records.
const LOGS: [&str; 3] = ["elasticsearch", "loki", "victorialogs"];

/// A load that has run, up to the delivery of its records.
pub(super) struct Load {
    server: WorkloadServer,
    started: Timestamp,
    /// The summary that the clients printed.
    summary: String,
}

impl Load {
    /// Runs the load with the program workload, and waits until the agent has delivered its records.
    pub(super) fn run(stack: &mut Stack, program: &Path, folder: &Path) -> Result<Self> {
        let port = host::free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut server = Command::new(program);
        server.args(["fast", &address]);
        let server = WorkloadServer::start(SERVICE, server, port, folder)?;
        let started = Timestamp::now();
        let crowd = Crowd::start(Command::new(program), &address, PLAN, folder)?;
        let summary = crowd.finish(|| stack.agent.require_alive())?;
        until_after(Duration::from_secs(1), "the records of the load to be delivered", DELIVERY, || {
            stack.agent.require_alive()?;
            let status = http::get_json(stack.admin, "/status")?;
            Ok((unacknowledged(&status)? < NORMALLY_UNACKNOWLEDGED).then_some(()))
        })?;
        Ok(Self { server, started, summary })
    }

    /// Checks that the `top-peers` queries of docs/queries.md return the addresses with the most connections,
    /// by the log of the server. Returns a line to report.
    pub(super) fn top_peers(
        &self,
        stack: &mut Stack,
        workload: &mut Workload,
        questions: &Questions,
    ) -> Result<String> {
        let mut counts = BTreeMap::<IpAddr, u32>::new();
        for peer in self.server.peers()? {
            *counts.entry(peer.ip()).or_default() += 1;
        }
        ensure!(
            counts.len() == PLAN.addresses as usize,
            "the server accepted connections from {} addresses",
            counts.len()
        );
        let mut by_count: Vec<_> =
            counts.into_iter().map(|(address, count)| (count, address.to_string())).collect();
        by_count.sort_unstable();
        let wanted: BTreeSet<_> =
            by_count.into_iter().rev().take(TOP_PEERS).map(|(_, address)| address).collect();
        let mut asked = BTreeSet::new();
        for query in questions.queries.iter().filter(|query| query.question == "top-peers") {
            let values = Values::from([("service", SERVICE.to_owned()), ("range", RANGE.to_owned())]);
            let text = query.with_values(&values)?;
            stack.until_right(workload, &query.backend, |port, _| {
                let found: BTreeSet<_> = ask::ask(&query.backend, port, &text)?.iter().map(peer).collect();
                ensure!(found == wanted, "{found:?} instead of {wanted:?}");
                Ok(())
            })?;
            asked.insert(query.backend.as_str());
        }
        ensure!(asked.is_superset(&LOGS.into()), "only {asked:?} were queried for the top peers");
        Ok(format!("load: {} name the ten that connect most", Vec::from_iter(asked).join(", ")))
    }

    /// Checks that the scanner of the workload is still the peer with the most listeners, in the `scanner`
    /// queries and on a dashboard. Returns a line to report.
    pub(super) fn scanner(
        stack: &mut Stack,
        workload: &mut Workload,
        Questions { queries, expressions, .. }: &Questions,
    ) -> Result<String> {
        let values = Values::from([("range", RANGE.to_owned())]);
        let mut asked = Vec::new();
        for query in queries.iter().filter(|query| query.question == "scanner") {
            asked.push((&query.backend, query.with_values(&values)?));
        }
        let panels = expressions.iter().filter(|expression| expression.panel == MOST_LISTENERS);
        asked.extend(panels.map(|panel| (&panel.backend, panel.text.clone())));
        ensure!(asked.len() == LOGS.len() + 1, "only {asked:?} are queried for scanners");
        for (backend, text) in &asked {
            stack.until_right(workload, backend, |port, _| {
                let first = ask::ask(backend, port, text)?.first().map(peer);
                ensure!(first.as_deref() == Some(LOOPBACK), "{first:?} has the most listeners");
                Ok(())
            })?;
        }
        Ok(format!("load: who scans is the first of {} in {} answers", PLAN.addresses, asked.len()))
    }

    /// Compares the records that the backends have stored with those of this agent, in `file`, and of another
    /// agent, `other_uids`. Both agents must have stopped. Returns lines to report.
    pub(super) fn compare(
        &self,
        pipeline: &mut Pipeline,
        ledger: &Ledger,
        file: &Path,
        other_uids: &HashSet<String>,
    ) -> Result<Vec<String>> {
        let recorded = Recorded::read(file, ledger)?;
        let loaded: Vec<_> = recorded.accepts.iter().filter(|accept| accept.service == SERVICE).collect();
        let (accepted, all) = (self.server.peers()?.len(), PLAN.connections());
        ensure!(
            accepted == all && loaded.len() == all && recorded.binds >= all,
            "{all} connections: {accepted} accepted by the server, {} by the agent, with {} binds",
            loaded.len(),
            recorded.binds
        );
        let mut lines =
            vec![format!("load: {}, two events each, from {} addresses", self.summary, PLAN.addresses)];
        pipeline.patience = PATIENCE;
        let all: HashSet<_> = recorded.uids.union(other_uids).cloned().collect();
        let mut compare = |name: &str, read: &dyn Fn(u16) -> Result<Stored>| {
            let twice = pipeline
                .until_right(name, |port| Ok(read(port).and_then(|stored| stored.duplicates(&all))))?;
            lines.push(format!(
                "load: {name}: the {} records of the ledger, and {} of another agent, {twice} twice",
                recorded.uids.len(),
                other_uids.len()
            ));
            anyhow::Ok(())
        };
        compare("elasticsearch", &|port| stored::in_elasticsearch(port, &json!({ "match_all": {} })))?;
        let since = self.started - jiff::SignedDuration::from_mins(30);
        compare("loki", &|port| stored::in_loki(port, since))?;
        let refused = stored::refused_by_elasticsearch(pipeline.backends["elasticsearch"].port)?;
        lines.push(format!("load: elasticsearch: {refused} were refused, of all that was sent"));
        lines.push(format!("load: jaeger: {}", compare_spans(pipeline, ledger)?));
        // Jaeger may lack the spans of connections that were still open, so only the spans of accepts are
        // checked.
        let traces = fastrand::choose_multiple(loaded, TRACES);
        ensure!(traces.len() == TRACES, "{} traces", traces.len());
        for accept in traces {
            pipeline.until_right("jaeger", |port| Ok(has_span(port, accept)))?;
        }
        lines.push(format!("load: jaeger: {TRACES} traces, chosen by chance, found by their ids"));
        for name in ["jaeger", "loki"] {
            let peak = pipeline.backends[name].peak_mebibytes()?;
            lines.push(format!("load: {name}: {peak} MiB resident at most"));
        }
        Ok(lines)
    }
}

/// The peer address in a row of an answer.
fn peer(row: &Row) -> String {
    row.get("network_peer_address").or(row.get("key")).cloned().unwrap_or_default()
}

/// How many records and spans have not been acknowledged by a backend, by the agent's status.
fn unacknowledged(status: &Value) -> Result<u64> {
    let mut sum = 0;
    for signal in ["export", "traces"] {
        for term in ["queued", "spooled", "in_flight"] {
            let count = &status["ledger"][signal][term];
            sum += count.as_u64().with_context(|| format!("{signal}.{term} is {count}"))?;
        }
    }
    Ok(sum)
}

/// Checks that Jaeger received all spans that the Collector sent, and that these are at least as many as the
/// agent made. Returns a line to report.
fn compare_spans(pipeline: &mut Pipeline, ledger: &Ledger) -> Result<String> {
    for term in ["dropped", "rejected", "spooled", "queued", "in_flight"] {
        let count = ledger.term("traces", term)?;
        ensure!(count == 0, "{count} spans are {term}");
    }
    let made = ledger.term("traces", "records")?;
    let sent = "sum(otelcol_exporter_sent_spans_total{exporter=\"otlp_grpc/jaeger\"})";
    let received = "sum(otelcol_receiver_accepted_spans_total{service_name=\"jaeger\"})";
    let count = |port: u16, query: &str| -> Result<u64> {
        let rows = ask::ask("prometheus", port, query)?;
        let value = rows.first().and_then(|row| row.get("value")).with_context(|| query.to_owned())?;
        Ok(value.parse()?)
    };
    pipeline.until_right("prometheus", |port| {
        let both = count(port, sent).and_then(|sent| Ok((sent, count(port, received)?)));
        Ok(both.and_then(|(sent, received)| {
            ensure!(sent >= made && sent == received, "{made} made, {sent} sent, {received} received");
            Ok(format!("{received} spans received, {sent} sent by the Collector, {made} made"))
        }))
    })
}

fn has_span(port: u16, RecordedAccept { trace, span, .. }: &RecordedAccept) -> Result<()> {
    let rows = answer::traces(&http::get_json(port, &format!("/api/traces/{trace}"))?)?;
    let found = rows.iter().any(|row| row.get("spanID").is_some_and(|id| id == span));
    ensure!(found, "trace {trace} has no span {span} in {} spans", rows.len());
    Ok(())
}
