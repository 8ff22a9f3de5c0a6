//! A thousand events a second for five minutes, from 5,000 addresses, into all backends at once: what each keeps at the end, held against
//! what the agent wrote into a file of its own, and says in its ledger.

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
    answer::{
        Row, {self},
    },
    ask,
    crowd::{Crowd, Plan},
    expected::LOOPBACK,
    kept::{
        Kept, {self},
    },
    made::{Accept, Made},
    queries::Values,
    questions::{Questions, RANGE},
    stack::{Behind, Stack},
    workload::{Server, Workload},
};
use crate::{host, http, ledger::Ledger, process::until_after};

/// Each connection is two events: the client binds its address, and the server accepts.
const PLAN: Plan = Plan { rate: 500, seconds: 300, addresses: 5000 };
const TRACES: usize = 100;
/// As many as the queries name.
const TOP: usize = 10;

/// What the agent still has when nothing waits longer than it always does: the workload goes on.
const ON_THE_WAY: u64 = 500;
/// Longer than what waits needs to be delivered, by far.
const DELIVERED: Duration = Duration::from_mins(10);
/// Several times what reading all of it takes.
const PATIENCE: Duration = Duration::from_mins(5);
const SERVICE: &str = "loaded";
/// A panel.
const MOST_LISTENERS: &str = "Most listeners for one peer";
/// Who has log records.
const LOGS: [&str; 3] = ["elasticsearch", "loki", "victorialogs"];

/// What came.
pub(super) struct Load {
    server: Server,
    began: Timestamp,
    /// What the clients said at the end.
    said: String,
}

impl Load {
    /// All of it, to its end and until it is delivered.
    pub(super) fn run(stack: &mut Stack, program: &Path, folder: &Path) -> Result<Self> {
        let port = host::free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut server = Command::new(program);
        server.args(["fast", &address]);
        let server = Server::start(SERVICE, server, port, folder)?;
        let began = Timestamp::now();
        let crowd = Crowd::start(Command::new(program), &address, PLAN, folder)?;
        let said = crowd.finish(|| stack.agent.require_alive())?;
        until_after(Duration::from_secs(1), "what waits to be delivered", DELIVERED, || {
            stack.agent.require_alive()?;
            let status = http::get_json(stack.admin, "/status")?;
            Ok((waiting(&status)? < ON_THE_WAY).then_some(()))
        })?;
        Ok(Self { server, began, said })
    }

    /// The addresses that connected most are those that the queries of docs/queries.md find.
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
        ensure!(counts.len() == PLAN.addresses as usize, "{} addresses", counts.len());
        let mut by_count: Vec<_> =
            counts.into_iter().map(|(address, count)| (count, address.to_string())).collect();
        by_count.sort_unstable();
        let wanted: BTreeSet<_> = by_count.into_iter().rev().take(TOP).map(|(_, address)| address).collect();
        let mut asked = BTreeSet::new();
        for query in questions.queries.iter().filter(|query| query.question == "top-peers") {
            let values = Values::from([("service", SERVICE.to_owned()), ("range", RANGE.to_owned())]);
            let text = query.with(&values)?;
            stack.until_right(workload, &query.backend, |port, _| {
                let found: BTreeSet<_> = ask::ask(&query.backend, port, &text)?.iter().map(peer).collect();
                ensure!(found == wanted, "{found:?} instead of {wanted:?}");
                Ok(())
            })?;
            asked.insert(query.backend.as_str());
        }
        ensure!(asked.is_superset(&LOGS.into()), "only {asked:?} were asked who connects most");
        Ok(format!("load: {} name the ten that connect most", Vec::from_iter(asked).join(", ")))
    }

    /// Among all of these the scanner still has the most listeners, in queries and on a dashboard.
    pub(super) fn scanner(
        stack: &mut Stack,
        workload: &mut Workload,
        Questions { queries, expressions, .. }: &Questions,
    ) -> Result<String> {
        let values = Values::from([("range", RANGE.to_owned())]);
        let mut asked = Vec::new();
        for query in queries.iter().filter(|query| query.question == "scanner") {
            asked.push((&query.backend, query.with(&values)?));
        }
        let panels = expressions.iter().filter(|expression| expression.panel == MOST_LISTENERS);
        asked.extend(panels.map(|panel| (&panel.backend, panel.text.clone())));
        ensure!(asked.len() == LOGS.len() + 1, "only {asked:?} are asked who scans");
        for (backend, text) in &asked {
            stack.until_right(workload, backend, |port, _| {
                let first = ask::ask(backend, port, text)?.first().map(peer);
                ensure!(first.as_deref() == Some(LOOPBACK), "{first:?} has the most listeners");
                Ok(())
            })?;
        }
        Ok(format!("load: who scans is the first of {} in {} answers", PLAN.addresses, asked.len()))
    }

    /// Holds what is kept against what was made, by the agent and by others; all have ended. Returns a line for each backend.
    pub(super) fn compare(
        &self,
        behind: &mut Behind,
        ledger: &Ledger,
        file: &Path,
        others: &HashSet<String>,
    ) -> Result<Vec<String>> {
        let made = Made::read(file, ledger)?;
        let loaded: Vec<_> = made.accepts.iter().filter(|accept| accept.service == SERVICE).collect();
        let (accepted, all) = (self.server.peers()?.len(), PLAN.connections());
        ensure!(
            accepted == all && loaded.len() == all && made.binds >= all,
            "{all} connections: {accepted} accepted by the server, {} by the agent, with {} binds",
            loaded.len(),
            made.binds
        );
        let mut lines =
            vec![format!("load: {}, two events each, from {} addresses", self.said, PLAN.addresses)];
        behind.patience = PATIENCE;
        let all: HashSet<_> = made.uids.union(others).cloned().collect();
        let mut compare = |name: &str, of: &dyn Fn(u16) -> Result<Kept>| {
            let again = behind.until_right(name, |port| Ok(of(port).and_then(|kept| kept.again(&all))))?;
            lines.push(format!(
                "load: {name}: the {} records of the ledger, and {} of another agent, {again} twice",
                made.uids.len(),
                others.len()
            ));
            anyhow::Ok(())
        };
        compare("elasticsearch", &|port| kept::of_elasticsearch(port, &json!({ "match_all": {} })))?;
        let since = self.began - jiff::SignedDuration::from_mins(30);
        compare("loki", &|port| kept::of_loki(port, since))?;
        let refused = kept::refused_by_elasticsearch(behind.backends["elasticsearch"].port)?;
        lines.push(format!("load: elasticsearch: {refused} were refused, of all that was sent"));
        lines.push(format!("load: jaeger: {}", spans(behind, ledger)?));
        // Of those that are still open Jaeger may have nothing yet.
        let traces = fastrand::choose_multiple(loaded, TRACES);
        ensure!(traces.len() == TRACES, "{} traces", traces.len());
        for accept in traces {
            behind.until_right("jaeger", |port| Ok(has_span(port, accept)))?;
        }
        lines.push(format!("load: jaeger: {TRACES} traces, chosen by chance, found by their ids"));
        for name in ["jaeger", "loki"] {
            let peak = behind.backends[name].peak_mebibytes()?;
            lines.push(format!("load: {name}: {peak} MiB resident at most"));
        }
        Ok(lines)
    }
}

/// Whom a row is of.
fn peer(row: &Row) -> String {
    row.get("network_peer_address").or(row.get("key")).cloned().unwrap_or_default()
}

/// Records and spans that no backend has taken yet.
fn waiting(status: &Value) -> Result<u64> {
    let mut sum = 0;
    for signal in ["export", "traces"] {
        for term in ["queued", "spooled", "in_flight"] {
            let count = &status["ledger"][signal][term];
            sum += count.as_u64().with_context(|| format!("{signal}.{term} is {count}"))?;
        }
    }
    Ok(sum)
}

/// What Jaeger received is what the Collector sent to it, and all that the agent made; each has its own word for it.
fn spans(behind: &mut Behind, ledger: &Ledger) -> Result<String> {
    for term in ["dropped", "rejected", "spooled", "queued", "in_flight"] {
        let count = ledger.term("traces", term)?;
        ensure!(count == 0, "{count} spans {term}");
    }
    let made = ledger.term("traces", "records")?;
    let sent = "sum(otelcol_exporter_sent_spans_total{exporter=\"otlp_grpc/jaeger\"})";
    let received = "sum(otelcol_receiver_accepted_spans_total{service_name=\"jaeger\"})";
    let count = |port: u16, query: &str| -> Result<u64> {
        let rows = ask::ask("prometheus", port, query)?;
        let value = rows.first().and_then(|row| row.get("value")).with_context(|| query.to_owned())?;
        Ok(value.parse()?)
    };
    behind.until_right("prometheus", |port| {
        let both = count(port, sent).and_then(|sent| Ok((sent, count(port, received)?)));
        Ok(both.and_then(|(sent, received)| {
            ensure!(sent >= made && sent == received, "{made} made, {sent} sent, {received} received");
            Ok(format!("{received} spans received, {sent} sent by the Collector, {made} made"))
        }))
    })
}

fn has_span(port: u16, Accept { trace, span, .. }: &Accept) -> Result<()> {
    let rows = answer::traces(&http::get_json(port, &format!("/api/traces/{trace}"))?)?;
    let found = rows.iter().any(|row| row.get("spanID").is_some_and(|id| id == span));
    ensure!(found, "trace {trace} has no span {span} in {} spans", rows.len());
    Ok(())
}
