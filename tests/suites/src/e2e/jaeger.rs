//! The trace of one connection to a server that is slow to accept, searched in a real Jaeger as a user would.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask_support::External;

use super::deadlines::{ARRIVAL, STOP};
use crate::{
    agent, collector,
    jaeger::Jaeger,
    ledger::Ledger,
    process::{first_line, until},
    records::{Record, Tail},
    suite::Suite,
};

/// How long the server lets its client wait, and how much the span may differ from that.
const SLOW: Duration = Duration::from_millis(300);
const TOLERANCE: Duration = Duration::from_millis(20);

const SERVICE: &str = "slow-to-accept";

/// The names of a trace's spans.
const CONNECTION: &str = "socket connection";
const HANDSHAKE: &str = "tcp handshake";
const QUEUE: &str = "accept queue";

/// The durations of the spans.
pub(crate) struct Times {
    pub(crate) handshake: Duration,
    pub(crate) queue: Duration,
    pub(crate) connection: Duration,
}

/// `suites accept-slowly`: prints its port, reads a line once the client is connected, waits, accepts and
/// answers.
pub(crate) fn accept_slowly() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdin().read_line(&mut String::new())?;
    thread::sleep(SLOW);
    let (mut accepted, _) = listener.accept().context("accepting")?;
    accepted.write_all(b"at last")?;
    Ok(())
}

/// Lets that server accept once, and checks the trace in Jaeger.
pub(crate) fn measure(suite: &Suite, folder: &Path) -> Result<Times> {
    let jaeger = Jaeger::start(suite, folder, None)?;
    let collector = collector::start(suite.external(External::Collector)?, folder)?;
    let mut arrived = Tail::new(collector.file.clone());
    let traces = format!("export.traces.endpoint=http://127.0.0.1:{}", jaeger.otlp);
    let settings = [traces.as_str(), "traces.ratio=1"];
    let mut agent = agent::start_with(&suite.program("acceptd"), folder, collector.port, &settings)?;
    let mut records = agent::wait_until_captures(&mut agent, &mut arrived)?;

    let (port, pid) = connect_to_a_slow_server()?;
    let is_from_server =
        |record: &&Record| record.is_accept() && record.attribute("network.local.port") == port;
    let record = until("the record of the slow accept", ARRIVAL, || {
        records.extend(arrived.read()?);
        Ok(records.iter().find(is_from_server).cloned())
    })?;
    let trace = until("the whole trace in Jaeger", ARRIVAL, || {
        Ok(find_trace(&jaeger, &record.trace_id)?.filter(|trace| trace.spans.len() == 3))
    })?;
    let services = jaeger.ask("/api/services")?;
    let mut names = services.as_array().into_iter().flatten();
    ensure!(names.any(|name| name == SERVICE), "{SERVICE} is none of Jaeger's services: {services}");
    for span in [CONNECTION, HANDSHAKE, QUEUE] {
        let found = jaeger.ask(&format!(
            "/api/traces?service={SERVICE}&operation={}&lookback=1h&limit=20",
            span.replace(' ', "%20")
        ))?;
        let ids: Vec<_> = found.as_array().into_iter().flatten().map(|trace| &trace["traceID"]).collect();
        ensure!(ids == [&record.trace_id], "the search for {SERVICE}, {span} finds the traces {ids:?}");
    }
    let ledger = Ledger::from_log(&agent.stop(STOP)?)?;
    collector.process.stop(STOP)?;
    jaeger.process.stop(STOP)?;
    ledger.check()?;
    trace.check(&record, &pid)
}

/// Starts the server and connects to it. Returns its port and its process id.
fn connect_to_a_slow_server() -> Result<(String, String)> {
    let this = std::env::current_exe().context("this program has no path")?;
    let mut server = Command::new(this)
        .arg("accept-slowly")
        .env("OTEL_SERVICE_NAME", SERVICE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let port = first_line(&mut server)?;
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().context("no port")?))?;
    server.stdin.take().context("no standard input")?.write_all(b"connected\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    ensure!(answer == "at last", "the slow server answered {answer:?}");
    ensure!(server.wait()?.success(), "the slow server failed");
    Ok((port, server.id().to_string()))
}

/// A trace as Jaeger's API returns it.
struct Trace {
    /// The spans by name.
    spans: BTreeMap<String, Value>,
    processes: Value,
}

/// Asks Jaeger for a trace by its id.
fn find_trace(jaeger: &Jaeger, id: &str) -> Result<Option<Trace>> {
    let mut found = jaeger.ask(&format!("/api/traces/{id}"))?;
    let Some(trace) = found.get_mut(0) else { return Ok(None) };
    let spans = trace["spans"].as_array().context("a trace without spans")?;
    let by_name = |span: &Value| Some((span["operationName"].as_str()?.to_owned(), span.clone()));
    Ok(Some(Trace {
        spans: spans.iter().filter_map(by_name).collect(),
        processes: trace["processes"].take(),
    }))
}

impl Trace {
    /// Checks durations, nesting, the process, and that the root's id is that of the log record.
    fn check(&self, record: &Record, pid: &str) -> Result<Times> {
        let span = |name| self.spans.get(name).with_context(|| format!("the trace has no {name}"));
        let (connection, handshake, queue) = (span(CONNECTION)?, span(HANDSHAKE)?, span(QUEUE)?);
        let times = Times {
            handshake: duration(handshake)?,
            queue: duration(queue)?,
            connection: duration(connection)?,
        };
        ensure!(
            times.queue.abs_diff(SLOW) <= TOLERANCE,
            "the server slept {SLOW:?}, and its client waited {:?}",
            times.queue
        );
        ensure!(
            connection["spanID"] == record.span_id.as_str(),
            "the root is {}, the log record's span {}",
            connection["spanID"],
            record.span_id
        );
        for part in [handshake, queue] {
            let parent = &part["references"][0];
            ensure!(
                parent["refType"] == "CHILD_OF" && parent["spanID"] == connection["spanID"],
                "not a child of the root: {part}"
            );
            let (whole, part) = (interval(connection)?, interval(part)?);
            ensure!(whole.0 <= part.0 && part.1 <= whole.1, "{part:?} is not within {whole:?}");
        }
        for span in self.spans.values() {
            let process = &self.processes[span["processID"].as_str().context("no process")?];
            ensure!(process["serviceName"] == SERVICE, "another service: {process}");
            let mut tags = process["tags"].as_array().into_iter().flatten();
            let found = tags.find(|tag| tag["key"] == "process.pid").map(|tag| tag["value"].to_string());
            ensure!(found.as_deref() == Some(pid), "the server is {pid}, the process {process}");
        }
        Ok(times)
    }
}

/// Start and end of a span in microseconds since the epoch.
fn interval(span: &Value) -> Result<(u64, u64)> {
    let start = span["startTime"].as_u64().context("a span without a start")?;
    Ok((start, start + span["duration"].as_u64().context("a span without a duration")?))
}

fn duration(span: &Value) -> Result<Duration> {
    let (start, end) = interval(span)?;
    Ok(Duration::from_micros(end - start))
}
