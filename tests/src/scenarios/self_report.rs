//! The agent's reports about itself (events, status, metrics), sampling under overload, several destinations,
//! reload.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest, common::v1::any_value::Value,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use super::support::listener;
use crate::{
    admin,
    agent::{Agent, binary, tier, tier_setting},
    inbox::{ACCEPT, Inbox},
    metrics::{Point, points},
    raw::reset_signal_handler,
    record::Record,
    stderr_log::StderrLog,
    wait,
};

const STARTED: &str = "acceptd.agent.started";
const STOPPED: &str = "acceptd.agent.stopped";
const LOST: &str = "acceptd.events.lost";

/// Makes and accepts `count` connections, one after the other.
fn make_accepts(listener: &TcpListener, address: SocketAddr, count: usize) {
    for _ in 0..count {
        let _client = TcpStream::connect(address).expect("the listener is up");
        listener.accept().expect("a connection");
    }
}

/// All records of the event `name` so far.
fn events(inbox: &Inbox, name: &str) -> Vec<Record> {
    inbox.events(name, |_| true)
}

/// The `acceptd.events.lost` records for a time in which no agent ran.
fn gaps(inbox: &Inbox) -> Vec<Record> {
    inbox.events(LOST, |record| record.text("acceptd.loss.reason") == Some("agent_not_running"))
}

/// The agent reports its start, under its own Resource and with any missing programs, and, as its very last
/// record, its stop. After a clean stop there is no gap to report.
pub(super) fn start_and_stop_events() {
    let agent = Agent::start();
    let started = agent.inbox.wait_for_events(STARTED, 1, |_| true).remove(0);
    assert_eq!(started.tier(), tier());
    assert_eq!(started.resource_text("service.name"), Some("acceptd"));
    assert_eq!(started.resource_int("process.pid"), Some(i64::from(agent.pid().as_raw_nonzero().get())));
    let (inbox, missing) = (agent.inbox.clone(), started.attributes.get("acceptd.capture.missing").cloned());
    let ledger = agent.stop();
    let is_missing = ledger["programs"]["missing"].as_array().is_some_and(|missing| !missing.is_empty());
    assert_eq!(missing.is_some(), is_missing, "{ledger}");
    // Not by the time of the event: accepts while the programs are detached are later.
    let last = inbox.records().into_iter().max_by_key(|record| record.log.observed_time_unix_nano);
    let last = last.expect("records");
    assert_eq!(last.log.event_name, STOPPED, "{last:?}");
    assert_eq!((events(&inbox, STARTED).len(), gaps(&inbox).len()), (1, 0));
}

/// After SIGKILL the next agent reports the gap once, with a duration between the bounds that the test
/// measures.
pub(super) fn the_next_agent_reports_the_gap_after_a_kill() {
    const GAP: Duration = Duration::from_secs(2);
    let state = tempfile::tempdir().expect("a temporary folder");
    let state = format!("state.directory={}", state.path().display());
    let start = || Agent::with_flags(&["--set", &state]);
    let first = start();
    let _ = first.inbox.wait_for_events(STARTED, 1, |_| true);
    assert_eq!(gaps(&first.inbox).len(), 0, "no agent was killed before");
    first.kill();
    let killed = Instant::now();
    thread::sleep(GAP);
    let second = start();
    let until = killed.elapsed();
    let _ = second.inbox.wait_for_events(STARTED, 1, |_| true);
    let lost = gaps(&second.inbox).remove(0);
    assert_eq!((lost.int("acceptd.loss.count"), lost.log.severity_number), (None, 17));
    let gap = lost.nanos("acceptd.interval.duration_ns").expect("a time");
    // The last heartbeat may be a second older than the kill, more on a slow machine; attaching the programs
    // adds to it.
    assert!(gap >= GAP && gap <= until + wait::deadline() / 4, "{gap:?} of {until:?}");
    let _ = second.stop();
    let third = start();
    let _ = third.inbox.wait_for_events(STARTED, 1, |_| true);
    let inbox = third.inbox.clone();
    let _ = third.stop();
    assert_eq!(gaps(&inbox).len(), 0, "the second agent stopped cleanly");
}

/// Runs `acceptd` with these arguments and the tier under test, and waits until it exits; kills it at the
/// deadline.
fn acceptd(arguments: &[&str]) -> Output {
    let mut acceptd = Command::new(binary("acceptd"));
    acceptd.env_clear().args(arguments).args(["--config", "/dev/null", "--set", &tier_setting()]);
    let mut child = acceptd.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("acceptd starts");
    let pid = Pid::from_child(&child);
    let patience = Instant::now() + wait::deadline();
    while child.try_wait().expect("waitpid").is_none() {
        if Instant::now() > patience {
            kill_process(pid, Signal::KILL).expect("acceptd is running");
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("waitpid")
}

/// A second agent with the same state directory is refused with the pid of the first, unless it has a filter.
pub(super) fn a_second_agent_is_refused() {
    let state = tempfile::tempdir().expect("a temporary folder");
    let state = format!("state.directory={}", state.path().display());
    let first = Agent::with_flags(&["--set", &state]);
    let refused = acceptd(&["run", "--endpoint", "127.0.0.1:9", "--set", &state]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    let pid = format!("pid {}", first.pid().as_raw_nonzero().get());
    assert!(stderr.contains(&pid) && stderr.contains("state.directory"), "{stderr}");
    // An agent with a filter may run beside it.
    let beside = Agent::with_flags(&["--set", &state, "--set", "filter.ports=1"]);
    let _ = (beside.stop(), first.stop());
}

const ADMIN: [&str; 2] = ["--set", "admin.listen=127.0.0.1:0"];

/// The exit code and the output of `acceptd status`.
fn status(address: SocketAddr, arguments: &[&str]) -> (Option<i32>, String) {
    let listen = format!("admin.listen={address}");
    let output = acceptd(&[&["status", "--set", &listen], arguments].concat());
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn json_status(address: SocketAddr) -> Json {
    let (_, text) = status(address, &["--output", "json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// `acceptd status`, `/livez`, `/readyz` and `/metrics` agree with what arrived; without an agent, `acceptd
/// status` exits with 1 and names `admin.listen`.
pub(super) fn status_matches_what_arrived() {
    let (busy, at) = listener();
    // Without a filter, other accepts on this host would keep the counts from settling.
    let port = format!("filter.ports={}", at.port());
    let mut agent = Agent::with_flags(&[&ADMIN[..], &["--set", &port]].concat());
    let stderr = agent.stderr();
    assert!(stderr.find("serves http://") < stderr.find("captures accepts"), "it is served first: {stderr}");
    let address = admin::address_of(&mut agent);
    make_accepts(&busy, at, 20);
    let _ = agent.inbox.wait_for_accepts(at.port(), 20);
    let inbox = agent.inbox.clone();
    let ledger = wait::until("the status to have every record", || {
        let ledger = json_status(address)["ledger"].take();
        // The 21st record is the event of the agent's start.
        let (made, taken) = (&ledger["capture"]["records"], &ledger["export"]["acknowledged"]);
        (made == taken && taken.as_u64()? >= 21).then_some(ledger)
    });
    assert_eq!(ledger["export"]["acknowledged"].as_u64(), Some(inbox.count() as u64), "{ledger}");
    assert!(ledger["capture"]["seen"].as_u64() >= Some(20), "{ledger}");
    assert_eq!(admin::get(address, "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(admin::get(address, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(admin::get(address, "/else").0, 404);
    assert_eq!((status(address, &["--live"]).0, status(address, &["--ready"]).0), (Some(0), Some(0)));
    let (_, metrics) = admin::get(address, "/metrics");
    let line = |name: &str| metrics.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    let created = line("otel_sdk_log_created_total ").unwrap_or_else(|| panic!("{metrics}"));
    assert!(created.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()) >= Some(20), "{created}");
    assert!(
        line("acceptd_capture_events_total{acceptd_capture_outcome=\"submitted\"}").is_some(),
        "{metrics}"
    );
    assert!(line("process_memory_usage_bytes ").is_some() && metrics.ends_with("# EOF\n"), "{metrics}");
    // The accepts of the admin endpoint make no records, and are counted as the agent's own.
    let ledger = agent.stop();
    assert!(ledger["capture"]["self"].as_u64() >= Some(5), "{ledger}");
    let (code, stderr) = status(address, &[]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("no agent answers") && stderr.contains("admin.listen"), "{stderr}");
}

/// With a program missing and an endpoint that refuses connections, the status is degraded (exit code 2) and
/// names both; the agent is still ready. A stopped agent is not alive: `--live` does not wait for it.
pub(super) fn a_missing_program_degrades_the_status() {
    let program = if tier().number() == 1 { "listen_exit" } else { "tcp_destroy_sock" };
    let skip = format!("capture.skip_hooks={program}");
    let closed = listener().1;
    let mut agent = Agent::sending_to(
        closed,
        Inbox::default(),
        &[&ADMIN[..], &["--set", &skip, "--set", "shutdown.timeout=0s"]].concat(),
    );
    let address = admin::address_of(&mut agent);
    agent.wait_for_message("trying again");
    let (code, text) = status(address, &[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("degraded") && text.contains("capture.skip_hooks"), "{text}");
    assert!(text.contains(&closed.to_string()), "the endpoint at fault: {text}");
    // A stopped agent does not answer; the command gives up.
    kill_process(agent.pid(), Signal::STOP).expect("the agent is running");
    let (code, text) = status(address, &["--live"]);
    assert_eq!(code, Some(1), "{text}");
    kill_process(agent.pid(), Signal::CONT).expect("the agent is running");
    assert_eq!(status(address, &["--ready"]).0, Some(0));
    let _ = agent.terminate();
}

/// The last value of each metric, by its name followed by its text attributes.
fn values(requests: &[ExportMetricsServiceRequest]) -> BTreeMap<String, f64> {
    let named = |point: Point| {
        let texts: BTreeSet<String> =
            point.attributes.keys().filter_map(|key| Some(format!(" {}", point.text(key)?))).collect();
        (point.name + &texts.into_iter().collect::<String>(), point.value)
    };
    requests.iter().flat_map(points).map(named).collect()
}

/// Metrics that are exported over OTLP equal the ledger, have the Resource of the agent's events, and are
/// flushed at the stop.
pub(super) fn metrics_match_the_ledger() {
    let interval = format!("metrics.interval={}", wait::scaled_timeout(Duration::from_millis(200)));
    let agent = Agent::with_flags(&["--set", "metrics.export=true", "--set", &interval]);
    let (busy, at) = listener();
    make_accepts(&busy, at, 30);
    let _ = agent.inbox.wait_for_accepts(at.port(), 30);
    let started = agent.inbox.wait_for_events(STARTED, 1, |_| true).remove(0);
    wait::until("metrics on the export interval", || (!agent.inbox.metrics().is_empty()).then_some(()));
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    let requests = inbox.metrics();
    let resource = requests[0].resource_metrics[0].resource.clone().expect("a Resource");
    let event_pid = started.resource_int("process.pid");
    let pid = resource.attributes.iter().find(|attribute| attribute.key == "process.pid");
    let pid = pid.and_then(|pid| pid.value.clone()).and_then(|value| value.value);
    assert_eq!(pid, event_pid.map(Value::IntValue), "the Resource is that of the agent's events");
    // The last request was sent after the flush.
    let values = values(&requests);
    let is = |name: &str, count: &Json| {
        let value = values.get(name).unwrap_or_else(|| panic!("no {name}: {values:?}"));
        assert_eq!(Some(*value), count.as_f64(), "{name}: {ledger}");
    };
    let exporter = " otlp_grpc_log_exporter otlp_grpc_log_exporter/default";
    is("otel.sdk.log.created", &ledger["capture"]["records"]);
    is(&format!("otel.sdk.exporter.log.exported{exporter}"), &ledger["export"]["acknowledged"]);
    is(&format!("otel.sdk.exporter.log.inflight{exporter}"), &Json::from(0));
    is("acceptd.capture.events submitted", &ledger["capture"]["submitted"]);
    is("acceptd.capture.events again", &ledger["capture"]["aggregated"]["again"]);
    let seen: f64 = values
        .iter()
        .filter(|(name, _)| name.starts_with("acceptd.capture.events "))
        .map(|(_, count)| count)
        .sum();
    let all = ledger["capture"]["seen"].as_f64().zip(ledger["capture"]["other"].as_f64());
    assert_eq!(Some(seen), all.map(|(seen, other)| seen + other), "{values:?} {ledger}");
    assert_eq!(ledger["metrics"]["acknowledged"], ledger["metrics"]["records"], "{ledger}");
    assert!(values["process.memory.usage"] > 1e6 && values["process.cpu.time user"] >= 0.0, "{values:?}");
}

/// Above `overload.max_records_per_second` the busy listener is sampled: records and dropped accepts add up
/// to all accepts, the adjusted counts estimate them, and a quiet listener keeps every record.
pub(super) fn under_overload_a_record_stands_for_several_accepts() {
    const BUSY: usize = 2000;
    let [(busy, at), (quiet, quiet_at), (last, last_at)] = [(); 3].map(|()| listener());
    // Only these ports: the ledger covers everything that the agent sees.
    let ports = [at, quiet_at, last_at].map(|address| address.port().to_string()).join(",");
    let filter = format!("filter.ports={ports}");
    let budget = format!("overload.max_records_per_second={}", wait::scaled_rate(40));
    let agent = Agent::with_flags(&["--set", &budget, "--set", &filter]);
    make_accepts(&quiet, quiet_at, 1);
    make_accepts(&busy, at, BUSY);
    make_accepts(&quiet, quiet_at, 2);
    // This record is the last one, so its arrival proves that of the others.
    let inbox = agent.inbox.clone();
    make_accepts(&last, last_at, 1);
    let _ = agent.inbox.wait_for_accepts(last_at.port(), 1);
    let ledger = agent.stop();
    let accepts_at = |address: SocketAddr| inbox.events(ACCEPT, |record| record.is_on_port(address.port()));
    let records = accepts_at(at);
    let stands_for = |record: &Record| record.int("acceptd.sampling.adjusted_count").unwrap_or(1);
    let estimate: i64 = records.iter().map(stands_for).sum();
    let most = records.iter().map(stands_for).max().unwrap_or_default();
    assert!(records.iter().all(|record| record.int("acceptd.sampling.adjusted_count") != Some(1)));
    let sampled_out =
        usize::try_from(ledger["capture"]["thinned"].as_u64().expect("a count")).expect("a small number");
    assert_eq!(records.len() + sampled_out, BUSY, "{ledger}");
    assert!(records.len() < 2 * BUSY / 3, "{} records", records.len());
    // The last group may be incomplete, without a record that stands for it.
    let estimate = usize::try_from(estimate).expect("a small number");
    assert!(
        estimate <= BUSY && estimate + usize::try_from(most).expect("a small number") > BUSY - BUSY / 4,
        "{estimate} of {BUSY}, {most}"
    );
    assert_eq!(accepts_at(quiet_at).len(), 3, "a quiet listener keeps its records");
}

/// Records that one destination drops are reported as lost to the other destination, under the agent's
/// Resource, and with the name of the first.
pub(super) fn drops_are_reported_to_the_other_destinations() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let collector = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = collector.local_addr().expect("an address");
    let text = format!(
        "[export]\nendpoint = \"{address}\"\n[destinations.closed]\nendpoint = \"{closed}\"\nretry_window = \"0s\"\n"
    );
    let agent = Agent::configured(&text, Inbox::receive_on(collector), &[]);
    let (busy, at) = listener();
    make_accepts(&busy, at, 10);
    let about_closed = |record: &Record| record.text("acceptd.destination.name") == Some("closed");
    let lost = agent.inbox.wait_for_events(LOST, 1, about_closed).remove(0);
    assert_eq!(lost.text("acceptd.loss.reason"), Some("retry_expired"), "{lost:?}");
    assert!(lost.int("acceptd.loss.count") >= Some(1), "{lost:?}");
    assert_eq!(lost.resource_text("service.name"), Some("acceptd"));
    let ledger = agent.stop();
    let closed = &ledger["destinations"]["closed"];
    assert_eq!(closed["records"], ledger["capture"]["records"], "{ledger}");
    assert_eq!(closed["acknowledged"], 0, "{ledger}");
}

/// Two endpoints and a file each get every record, compared by `log.record.uid`.
pub(super) fn each_destination_has_every_record() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = folder.path().join("accepts.jsonl");
    let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [first, second] = [&one, &other].map(|listener| listener.local_addr().expect("an address"));
    let text = format!(
        "[export]\nendpoint = \"{first}\"\n[destinations.archive]\nfile = \"{}\"\n[destinations.audit]\nendpoint = \"{second}\"\n",
        archive.display()
    );
    let second = Inbox::receive_on(other);
    let agent = Agent::configured(&text, Inbox::receive_on(one), &[]);
    let (busy, at) = listener();
    make_accepts(&busy, at, 25);
    let _ = agent.inbox.wait_for_accepts(at.port(), 25);
    let _ = second.wait_for_accepts(at.port(), 25);
    let first = agent.inbox.clone();
    let ledger = agent.stop();
    let uids = |records: Vec<Record>| -> BTreeSet<String> {
        records.iter().filter_map(|record| record.text("log.record.uid").map(str::to_owned)).collect()
    };
    let all = uids(first.records());
    assert_eq!(uids(second.records()), all);
    let lines = fs::read_to_string(&archive).expect("a file");
    assert!(all.iter().all(|uid| lines.contains(uid.as_str())), "the file has every record");
    for name in ["archive", "audit"] {
        let one = &ledger["destinations"][name];
        assert_eq!(one["acknowledged"], ledger["capture"]["records"], "{name}: {ledger}");
    }
}

/// SIGHUP applies what can change at runtime (endpoint, events) and logs the rest as pending; no record is
/// lost, and the programs stay attached.
pub(super) fn a_reload_applies_runtime_settings_and_names_the_others() {
    let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [first, second] = [&one, &other].map(|listener| listener.local_addr().expect("an address"));
    let (first_inbox, second_inbox) = (Inbox::receive_on(one), Inbox::receive_on(other));
    let text = |endpoint: SocketAddr, more: &str| format!("[export]\nendpoint = \"{endpoint}\"\n{more}");
    let mut agent = Agent::configured(&text(first, ""), first_inbox.clone(), &[]);
    let programs = programs_of(agent.pid());
    let (busy, at) = listener();
    make_accepts(&busy, at, 10);
    let _ = first_inbox.wait_for_accepts(at.port(), 10);
    agent.reconfigure(&text(second, "[events]\nlisten = false\n[capture]\nring_bytes = \"8MiB\"\n"));
    agent.wait_for_message("restart the agent to apply: capture.ring_bytes");
    assert!(agent.stderr().contains("changed: events.listen, export.endpoint"), "{}", agent.stderr());
    let (quiet, quiet_at) = listener();
    make_accepts(&quiet, quiet_at, 1);
    make_accepts(&busy, at, 10);
    let _ = second_inbox.wait_for_accepts(at.port(), 10);
    let _ = second_inbox.wait_for_accepts(quiet_at.port(), 1);
    let listens = |inbox: &Inbox, port: u16| {
        inbox.events("acceptd.socket.listen", |record| record.is_on_port(port)).len()
    };
    assert_eq!((listens(&first_inbox, at.port()), listens(&second_inbox, quiet_at.port())), (1, 0));
    assert_eq!(programs_of(agent.pid()), programs, "the programs stay attached");
    let ledger = agent.terminate();
    let arrived = (first_inbox.count() + second_inbox.count()) as u64;
    assert_eq!(ledger["export"]["acknowledged"].as_u64(), Some(arrived), "{ledger}");
    assert_eq!(ledger["export"]["acknowledged"], ledger["capture"]["records"], "nothing is lost: {ledger}");
}

/// The ids of the BPF programs that a process holds (`prog_id` in `/proc/PID/fdinfo`).
fn programs_of(pid: Pid) -> BTreeSet<String> {
    let folder = format!("/proc/{}/fdinfo", pid.as_raw_nonzero().get());
    let files = fs::read_dir(folder).expect("the agent runs").map_while(Result::ok);
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts
        .filter_map(|text| text.lines().find(|line| line.starts_with("prog_id:")).map(str::to_owned))
        .collect()
}

/// A configuration that is invalid in any way is rejected on reload with the setting at fault, and the agent
/// goes on.
pub(super) fn a_bad_configuration_is_rejected_on_reload() {
    let collector = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = collector.local_addr().expect("an address");
    let good = format!("[export]\nendpoint = \"{address}\"\n");
    let agent = Agent::configured(&good, Inbox::receive_on(collector), &[]);
    for (number, (text, words)) in (1..).zip([
        ("[export]\nendpoint = \"h:1\"\n[batch]\ntimeout = \"soon\"", "batch.timeout"),
        ("[export]\nendpoint = \"https://h:1\"\ntls.ca_file = \"/nowhere.pem\"", "/nowhere.pem"),
        ("[attributes]\ninclude = [\"no.such\"]", "no.such"),
        ("[filter]\npeers = [\"10.0.0.1/8\"]", "10.0.0.1/8"),
    ]) {
        agent.reconfigure(text);
        wait::until(words, || {
            let stderr = agent.stderr();
            let kept = stderr.matches("the previous configuration stays in effect").count();
            (kept == number && stderr.contains(words)).then_some(())
        });
    }
    let (busy, at) = listener();
    make_accepts(&busy, at, 5);
    let _ = agent.inbox.wait_for_accepts(at.port(), 5);
    let _ = agent.stop();
}

/// `acceptd watch`, which prints to a terminal, exits on SIGHUP instead of reloading.
pub(super) fn watch_exits_with_its_terminal() {
    let state = tempfile::tempdir().expect("a temporary folder");
    reset_signal_handler(Signal::HUP);
    let mut watch = Command::new(binary("acceptd"))
        .env_clear()
        .args(["watch", "--set", &format!("state.directory={}", state.path().display())])
        .args(["--set", &tier_setting(), "--set", "admin.listen=none", "--set", "log.level=info"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let stderr = StderrLog::follow(watch.stderr.take().expect("piped"));
    wait::until("acceptd watch to capture accepts", || {
        stderr.text().contains("captures accepts").then_some(())
    });
    kill_process(Pid::from_child(&watch), Signal::HUP).expect("acceptd watch is running");
    let status = wait::until("acceptd watch to exit", || watch.try_wait().expect("waitpid"));
    assert_eq!(status.signal(), Some(Signal::HUP.as_raw()), "{status}");
}
