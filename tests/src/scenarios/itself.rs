//! What the agent says of itself: events, status, metrics; and how it is told to work in another way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
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

use super::listener;
use crate::{
    agent::{ACCEPT, Agent, Inbox, Said, binary, tier, tier_setting},
    metrics::{Point, points},
    raw::set_default,
    record::Record,
    wait,
};

const STARTED: &str = "acceptd.agent.started";
const STOPPED: &str = "acceptd.agent.stopped";
const LOST: &str = "acceptd.events.lost";

/// Connects and accepts so many times.
fn accepts(listener: &TcpListener, address: SocketAddr, count: usize) {
    for _ in 0..count {
        let _client = TcpStream::connect(address).expect("somebody listens");
        listener.accept().expect("a connection");
    }
}

fn events(inbox: &Inbox, name: &str) -> Vec<Record> {
    inbox.found(name, |_| true)
}

/// What is told of the time before a start.
fn gaps(inbox: &Inbox) -> Vec<Record> {
    inbox.found(LOST, |record| record.text("acceptd.loss.reason") == Some("agent_not_running"))
}

pub(super) fn starts_and_stops_are_told() {
    let agent = Agent::start();
    let started = agent.inbox.of_event(STARTED, 1, |_| true).remove(0);
    assert_eq!(started.tier(), tier());
    assert_eq!(started.resource_text("service.name"), Some("acceptd"));
    assert_eq!(started.resource_int("process.pid"), Some(i64::from(agent.pid().as_raw_nonzero().get())));
    let (inbox, missing) = (agent.inbox.clone(), started.attributes.get("acceptd.capture.missing").cloned());
    let ledger = agent.stop();
    let is_missing = ledger["programs"]["missing"].as_array().is_some_and(|missing| !missing.is_empty());
    assert_eq!(missing.is_some(), is_missing, "{ledger}");
    let last = inbox.records().into_iter().max_by_key(|record| record.log.time_unix_nano).expect("records");
    assert_eq!(last.log.event_name, STOPPED, "{last:?}");
    assert_eq!((events(&inbox, STARTED).len(), gaps(&inbox).len()), (1, 0));
}

pub(super) fn a_killed_agent_leaves_a_gap_that_the_next_one_tells() {
    const GAP: Duration = Duration::from_secs(2);
    let state = tempfile::tempdir().expect("a temporary folder");
    let state = format!("state.directory={}", state.path().display());
    let start = || Agent::with(&["--set", &state]);
    let first = start();
    let _ = first.inbox.of_event(STARTED, 1, |_| true);
    assert_eq!(gaps(&first.inbox).len(), 0, "nobody was killed before");
    first.kill();
    let killed = Instant::now();
    thread::sleep(GAP);
    let second = start();
    let until = killed.elapsed();
    let _ = second.inbox.of_event(STARTED, 1, |_| true);
    let lost = gaps(&second.inbox).remove(0);
    assert_eq!((lost.int("acceptd.loss.count"), lost.log.severity_number), (None, 17));
    let blind = lost.nanos("acceptd.interval.duration_ns").expect("a time");
    // The last sign of life was a second before, or somewhat more on a slow machine; the programs attach meanwhile.
    assert!(blind >= GAP && blind <= until + wait::deadline() / 4, "{blind:?} of {until:?}");
    let _ = second.stop();
    let third = start();
    let _ = third.inbox.of_event(STARTED, 1, |_| true);
    let inbox = third.inbox.clone();
    let _ = third.stop();
    assert_eq!(gaps(&inbox).len(), 0, "it was stopped");
}

/// `acceptd` with these arguments and the tier of the test; it has to end by itself.
fn acceptd(arguments: &[&str]) -> Output {
    let mut acceptd = Command::new(binary("acceptd"));
    acceptd.env_clear().args(arguments).args(["--config", "/dev/null", "--set", &tier_setting()]);
    let mut child = acceptd.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let pid = Pid::from_child(&child);
    let patience = Instant::now() + wait::deadline();
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > patience {
            kill_process(pid, Signal::KILL).expect("it is there");
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("a child")
}

pub(super) fn a_second_agent_is_refused() {
    let state = tempfile::tempdir().expect("a temporary folder");
    let state = format!("state.directory={}", state.path().display());
    let first = Agent::with(&["--set", &state]);
    let refused = acceptd(&["run", "--endpoint", "127.0.0.1:9", "--set", &state]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let pid = format!("pid {}", first.pid().as_raw_nonzero().get());
    assert!(said.contains(&pid) && said.contains("state.directory"), "{said}");
    // One that looks at a part only may run beside it.
    let beside = Agent::with(&["--set", &state, "--set", "filter.ports=1"]);
    let _ = (beside.stop(), first.stop());
}

/// The address at which an agent shows itself, which said so.
pub(super) fn admin_of(agent: &mut Agent) -> SocketAddr {
    agent.until_it_says("shows its status at http://");
    let said = agent.said();
    let address = said.split("shows its status at http://").nth(1).and_then(|rest| rest.split('/').next());
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

const SHOWN: [&str; 2] = ["--set", "admin.listen=127.0.0.1:0"];

/// The status code and the body of an answer.
pub(super) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the agent listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (code, body.to_owned())
}

/// How `acceptd status` ends, and what it prints.
fn status(address: SocketAddr, arguments: &[&str]) -> (Option<i32>, String) {
    let listen = format!("admin.listen={address}");
    let output = acceptd(&[&["status", "--set", &listen], arguments].concat());
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn json_status(address: SocketAddr) -> Json {
    let (_, text) = status(address, &["--output", "json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(super) fn the_status_is_what_arrived() {
    let (busy, at) = listener();
    // What else is accepted on this host meanwhile would never come to rest.
    let port = format!("filter.ports={}", at.port());
    let mut agent = Agent::with(&[&SHOWN[..], &["--set", &port]].concat());
    let address = admin_of(&mut agent);
    accepts(&busy, at, 20);
    let _ = agent.inbox.of_port(at.port(), 20);
    let inbox = agent.inbox.clone();
    let ledger = wait::until("the status has all", || {
        let ledger = json_status(address)["ledger"].take();
        // The agent's start is one, too.
        let (made, taken) = (&ledger["capture"]["records"], &ledger["export"]["acknowledged"]);
        (made == taken && taken.as_u64()? >= 21).then_some(ledger)
    });
    assert_eq!(ledger["export"]["acknowledged"].as_u64(), Some(inbox.count() as u64), "{ledger}");
    assert!(ledger["capture"]["seen"].as_u64() >= Some(20), "{ledger}");
    assert_eq!(get(address, "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/else").0, 404);
    assert_eq!((status(address, &["--live"]).0, status(address, &["--ready"]).0), (Some(0), Some(0)));
    let (_, metrics) = get(address, "/metrics");
    let line = |name: &str| metrics.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    let created = line("otel_sdk_log_created_total ").unwrap_or_else(|| panic!("{metrics}"));
    assert!(created.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()) >= Some(20), "{created}");
    assert!(
        line("acceptd_capture_events_total{acceptd_capture_outcome=\"submitted\"}").is_some(),
        "{metrics}"
    );
    assert!(line("process_memory_usage_bytes ").is_some() && metrics.ends_with("# EOF\n"), "{metrics}");
    // The agent's own accepts are no records, and the agent goes on.
    let ledger = agent.stop();
    assert!(ledger["capture"]["self"].as_u64() >= Some(5), "{ledger}");
    let (code, said) = status(address, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no agent answers") && said.contains("admin.listen"), "{said}");
}

pub(super) fn what_is_missing_makes_the_status_degraded() {
    let program = if tier().number() == 1 { "listen_exit" } else { "tcp_destroy_sock" };
    let skip = format!("capture.skip_hooks={program}");
    let nobody = listener().1;
    let mut agent = Agent::sending_to(
        nobody,
        Inbox::default(),
        &[&SHOWN[..], &["--set", &skip, "--set", "shutdown.timeout=0s"]].concat(),
    );
    let address = admin_of(&mut agent);
    agent.until_it_says("does not take records");
    let (code, text) = status(address, &[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("degraded") && text.contains("capture.skip_hooks"), "{text}");
    assert!(text.contains(&nobody.to_string()), "who does not take records: {text}");
    // Who does not answer is not waited for.
    kill_process(agent.pid(), Signal::STOP).expect("the agent is there");
    let (code, text) = status(address, &["--live"]);
    assert_eq!(code, Some(1), "{text}");
    kill_process(agent.pid(), Signal::CONT).expect("the agent is there");
    assert_eq!(status(address, &["--ready"]).0, Some(0));
    let _ = agent.end();
}

/// The last value of each metric, by name and the texts among its attributes.
fn values(requests: &[ExportMetricsServiceRequest]) -> BTreeMap<String, f64> {
    let named = |point: Point| {
        let texts: BTreeSet<String> =
            point.attributes.keys().filter_map(|key| Some(format!(" {}", point.text(key)?))).collect();
        (point.name + &texts.into_iter().collect::<String>(), point.value)
    };
    requests.iter().flat_map(points).map(named).collect()
}

pub(super) fn the_metrics_are_the_ledger() {
    let interval = format!("metrics.interval={}", wait::slowly(Duration::from_millis(200)));
    let agent = Agent::with(&["--set", "metrics.export=true", "--set", &interval]);
    let (busy, at) = listener();
    accepts(&busy, at, 30);
    let _ = agent.inbox.of_port(at.port(), 30);
    let started = agent.inbox.of_event(STARTED, 1, |_| true).remove(0);
    wait::until("metrics on their own", || (!agent.inbox.metrics().is_empty()).then_some(()));
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    let requests = inbox.metrics();
    let resource = requests[0].resource_metrics[0].resource.clone().expect("a Resource");
    let of_event = started.resource_int("process.pid");
    let pid = resource.attributes.iter().find(|attribute| attribute.key == "process.pid");
    let pid = pid.and_then(|pid| pid.value.clone()).and_then(|value| value.value);
    assert_eq!(pid, of_event.map(Value::IntValue), "the Resource is that of the agent's events");
    // The last request is of after the flush.
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

pub(super) fn under_overload_a_record_stands_for_several_accepts() {
    const BUSY: usize = 2000;
    let [(busy, at), (quiet, quiet_at), (last, last_at)] = [(); 3].map(|()| listener());
    // Nobody else's accepts: the ledger is of all that the agent sees.
    let ports = [at, quiet_at, last_at].map(|address| address.port().to_string()).join(",");
    let filter = format!("filter.ports={ports}");
    let budget = format!("overload.max_records_per_second={}", wait::fewer(40));
    let agent = Agent::with(&["--set", &budget, "--set", &filter]);
    accepts(&quiet, quiet_at, 1);
    accepts(&busy, at, BUSY);
    accepts(&quiet, quiet_at, 2);
    // Behind everything else.
    let inbox = agent.inbox.clone();
    accepts(&last, last_at, 1);
    let _ = agent.inbox.of_port(last_at.port(), 1);
    let ledger = agent.stop();
    let of = |address: SocketAddr| inbox.found(ACCEPT, |record| record.is_of_port(address.port()));
    let records = of(at);
    let stands_for = |record: &Record| record.int("acceptd.sampling.adjusted_count").unwrap_or(1);
    let told: i64 = records.iter().map(stands_for).sum();
    let most = records.iter().map(stands_for).max().unwrap_or_default();
    assert!(records.iter().all(|record| record.int("acceptd.sampling.adjusted_count") != Some(1)));
    let thinned = usize::try_from(ledger["capture"]["thinned"].as_u64().expect("a count")).expect("few");
    assert_eq!(records.len() + thinned, BUSY, "{ledger}");
    assert!(records.len() < 2 * BUSY / 3, "{} records", records.len());
    // What is left of the last group has no record to stand for it.
    let told = usize::try_from(told).expect("few");
    assert!(
        told <= BUSY && told + usize::try_from(most).expect("few") > BUSY - BUSY / 4,
        "{told} of {BUSY}, {most}"
    );
    assert_eq!(of(quiet_at).len(), 3, "a quiet listener keeps its records");
}

pub(super) fn what_is_dropped_is_told_where_it_still_can_be() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let collector = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = collector.local_addr().expect("an address");
    let text = format!(
        "[export]\nendpoint = \"{address}\"\n[destinations.nobody]\nendpoint = \"{nobody}\"\nretry_window = \"0s\"\n"
    );
    let agent = Agent::configured(&text, Inbox::on(collector), &[]);
    let (busy, at) = listener();
    accepts(&busy, at, 10);
    let of_nobody = |record: &Record| record.text("acceptd.destination.name") == Some("nobody");
    let lost = agent.inbox.of_event(LOST, 1, of_nobody).remove(0);
    assert_eq!(lost.text("acceptd.loss.reason"), Some("retry_expired"), "{lost:?}");
    assert!(lost.int("acceptd.loss.count") >= Some(1), "{lost:?}");
    assert_eq!(lost.resource_text("service.name"), Some("acceptd"));
    let ledger = agent.stop();
    let nobody = &ledger["destinations"]["nobody"];
    assert_eq!(nobody["records"], ledger["capture"]["records"], "{ledger}");
    assert_eq!(nobody["acknowledged"], 0, "{ledger}");
}

pub(super) fn each_destination_has_every_record() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = folder.path().join("accepts.jsonl");
    let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [first, second] = [&one, &other].map(|listener| listener.local_addr().expect("an address"));
    let text = format!(
        "[export]\nendpoint = \"{first}\"\n[destinations.archive]\nfile = \"{}\"\n[destinations.audit]\nendpoint = \"{second}\"\n",
        archive.display()
    );
    let second = Inbox::on(other);
    let agent = Agent::configured(&text, Inbox::on(one), &[]);
    let (busy, at) = listener();
    accepts(&busy, at, 25);
    let _ = agent.inbox.of_port(at.port(), 25);
    let _ = second.of_port(at.port(), 25);
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

pub(super) fn a_reload_changes_what_it_can_and_says_what_it_cannot() {
    let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [first, second] = [&one, &other].map(|listener| listener.local_addr().expect("an address"));
    let (first_inbox, second_inbox) = (Inbox::on(one), Inbox::on(other));
    let text = |endpoint: SocketAddr, more: &str| format!("[export]\nendpoint = \"{endpoint}\"\n{more}");
    let mut agent = Agent::configured(&text(first, ""), first_inbox.clone(), &[]);
    let programs = programs_of(agent.pid());
    let (busy, at) = listener();
    accepts(&busy, at, 10);
    let _ = first_inbox.of_port(at.port(), 10);
    agent.reconfigure(&text(second, "[events]\nlisten = false\n[capture]\nring_bytes = \"8MiB\"\n"));
    agent.until_it_says("at the next start only: capture.ring_bytes");
    assert!(agent.said().contains("changed: events.listen, export.endpoint"), "{}", agent.said());
    let (quiet, quiet_at) = listener();
    accepts(&quiet, quiet_at, 1);
    accepts(&busy, at, 10);
    let _ = second_inbox.of_port(at.port(), 10);
    let _ = second_inbox.of_port(quiet_at.port(), 1);
    let listens = |inbox: &Inbox, port: u16| {
        inbox.found("acceptd.socket.listen", |record| record.is_of_port(port)).len()
    };
    assert_eq!((listens(&first_inbox, at.port()), listens(&second_inbox, quiet_at.port())), (1, 0));
    assert_eq!(programs_of(agent.pid()), programs, "the programs stay attached");
    let ledger = agent.end();
    let arrived = (first_inbox.count() + second_inbox.count()) as u64;
    assert_eq!(ledger["export"]["acknowledged"].as_u64(), Some(arrived), "{ledger}");
    assert_eq!(ledger["export"]["acknowledged"], ledger["capture"]["records"], "nothing is lost: {ledger}");
}

/// What each of the agent's descriptors of programs leads to.
fn programs_of(pid: Pid) -> BTreeSet<String> {
    let folder = format!("/proc/{}/fdinfo", pid.as_raw_nonzero().get());
    let files = fs::read_dir(folder).expect("the agent runs").map_while(Result::ok);
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts
        .filter_map(|text| text.lines().find(|line| line.starts_with("prog_id:")).map(str::to_owned))
        .collect()
}

pub(super) fn a_bad_configuration_is_not_taken() {
    let collector = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = collector.local_addr().expect("an address");
    let good = format!("[export]\nendpoint = \"{address}\"\n");
    let agent = Agent::configured(&good, Inbox::on(collector), &[]);
    for (number, (text, words)) in (1..).zip([
        ("[export]\nendpoint = \"h:1\"\n[batch]\ntimeout = \"soon\"", "batch.timeout"),
        ("[export]\nendpoint = \"https://h:1\"\ntls.ca_file = \"/nowhere.pem\"", "/nowhere.pem"),
        ("[attributes]\ninclude = [\"no.such\"]", "no.such"),
        ("[filter]\ncgroups = [\"/no/such/group\"]", "/no/such/group"),
    ]) {
        agent.reconfigure(text);
        wait::until(words, || {
            let said = agent.said();
            let kept = said.matches("the configuration is kept as it was").count();
            (kept == number && said.contains(words)).then_some(())
        });
    }
    let (busy, at) = listener();
    accepts(&busy, at, 5);
    let _ = agent.inbox.of_port(at.port(), 5);
    let _ = agent.stop();
}

/// A hangup reloads whoever delivers; who prints for a terminal that is gone would be left over.
pub(super) fn an_agent_that_only_prints_ends_with_its_terminal() {
    let state = tempfile::tempdir().expect("a temporary folder");
    set_default(Signal::HUP);
    let mut watch = Command::new(binary("acceptd"))
        .env_clear()
        .args(["watch", "--set", &format!("state.directory={}", state.path().display())])
        .args(["--set", &tier_setting(), "--set", "admin.listen=none", "--set", "log.level=info"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let said = Said::by(watch.stderr.take().expect("piped"));
    wait::until("it captures", || said.text().contains("captures accepts").then_some(()));
    kill_process(Pid::from_child(&watch), Signal::HUP).expect("it is there");
    let status = wait::until("it ends", || watch.try_wait().expect("a child"));
    assert_eq!(status.signal(), Some(Signal::HUP.as_raw()), "{status}");
}
