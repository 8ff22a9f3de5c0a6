//! A million short connections to processes that pretend to be others: each record is of the process that accepted, and the agent
//! stays as small as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use acceptd_otlp::{Received, names};
use acceptd_tests::agent::{ACCEPT, Agent, Inbox};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use serde_json::{Value as Json, json};

use crate::{
    hostile::{
        EXECUTABLES, {self},
    },
    sink,
};

/// At a time.
const PROCESSES: usize = 4;

/// Lives of each: it becomes another executable between two.
const LIVES: u32 = 10;

/// Anonymous memory of the agent: there is an identity to remember for each life, and the rest is for the records.
const BOUND_KIB: u64 = 48 << 10;

/// Who accepted, as a record has it: port, process id, executable.
type Who = (String, String, String);

/// How long all of them may take.
const PATIENCE: Duration = Duration::from_mins(20);

/// How many records say so, and call the service so.
type Told = BTreeMap<(Who, String), u32>;

pub(crate) fn measure(full: bool) -> Json {
    let each: u32 = if full { 25_000 } else { 500 };
    let told: Arc<Mutex<Told>> = Arc::default();
    let taker = Arc::clone(&told);
    let address = sink::serve(move |received| {
        if let Received::Logs(request) = received {
            note(&mut taker.lock().expect("no panic"), request);
        }
        Ok(())
    });
    let include = ["--set", "resource.include=process.command,process.command_args,process.args_count"];
    let agent = Agent::sending_to(address, Inbox::default(), &include);
    let folder = tempfile::tempdir().expect("a folder");
    let this = std::env::current_exe().expect("a path");
    for name in EXECUTABLES {
        fs::copy(&this, folder.path().join(name)).expect("room for a copy");
    }
    let start = |number: usize| {
        let program = folder.path().join(EXECUTABLES[number % EXECUTABLES.len()]);
        hostile::command(&program, number, LIVES, each).stdout(Stdio::piped()).spawn().expect("it starts")
    };
    let mut crowd: Vec<Child> = (0..PROCESSES).map(start).collect();
    let (mut peak, end) = (0, Instant::now() + PATIENCE);
    let is_over = |one: &mut Child| one.try_wait().expect("a child").is_some();
    while !crowd.iter_mut().all(is_over) {
        assert!(Instant::now() < end, "the crowd still accepts");
        peak = peak.max(agent.anonymous_kib());
        thread::sleep(Duration::from_millis(100));
    }
    let crowd = crowd.into_iter().enumerate();
    // Who it was, and how the names begin that it forges.
    let truth: BTreeMap<Who, String> = crowd
        .flat_map(|(number, one)| lives(one).map(move |who| (who, hostile::forged_by(number))))
        .collect();
    assert_eq!(truth.len(), PROCESSES * LIVES as usize, "{truth:?}");
    let accepted = u64::from(each) * truth.len() as u64;
    let ledger = agent.end();
    let lost = ledger["capture"]["lost"]["ring"].as_u64().expect("a count");
    let told = told.lock().expect("no panic");
    // Others of this host accept, too.
    let is_of_crowd = |(port, pid, _): &Who| truth.keys().any(|(own, is, _)| own == port || is == pid);
    let (mut records, mut forged, mut heard) = (0, 0, BTreeSet::new());
    for ((who, service), count) in told.iter().filter(|((who, _), _)| is_of_crowd(who)) {
        let own = truth
            .get(who)
            .unwrap_or_else(|| panic!("{count} records of {who:?}, of whom there is none: {truth:?}"));
        let is_forged = service.starts_with(own);
        assert!(is_forged || *service == format!("unknown_service:{}", who.2), "{who:?} is not {service}");
        records += u64::from(*count);
        forged += u64::from(is_forged);
        heard.insert(who);
    }
    println!(
        "crowd: {accepted} accepts by {PROCESSES} processes that pretend, in {LIVES} lives each: {records} records, {lost} counted as lost, none of another process; {forged} names of services that they forged themselves; anonymous memory {peak} KiB at most, the bound is {BOUND_KIB}",
    );
    assert_eq!(records + lost, accepted, "{ledger}");
    assert!(lost < accepted / 10, "{ledger}");
    assert_eq!(heard.len(), truth.len(), "{told:?}");
    assert!(forged > 0, "nobody asked what they call themselves: {told:?}");
    assert!(peak < BOUND_KIB, "{peak} KiB");
    json!({
        "accepts": accepted, "records": records, "lost": lost, "lives": truth.len(),
        "rss_anon_peak_kib": peak, "bound_kib": BOUND_KIB,
    })
}

/// What it was, life by life.
fn lives(mut one: Child) -> impl Iterator<Item = Who> {
    let status = one.wait().expect("a child");
    assert!(status.success(), "{status}");
    let lines = BufReader::new(one.stdout.take().expect("piped")).lines();
    let who = |line: String| {
        let [port, pid, executable] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (port.to_owned(), pid.to_owned(), executable.to_owned())
    };
    lines.map(move |line| who(line.expect("text")))
}

/// Reads no more of a request than this takes: the receiver has to keep up with the crowd.
fn note(told: &mut Told, request: &ExportLogsServiceRequest) {
    for of_one in &request.resource_logs {
        let resource = of_one.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        let [pid, executable, service] =
            [names::PROCESS_PID, names::PROCESS_EXECUTABLE_NAME, names::SERVICE_NAME]
                .map(|key| shown(resource, key));
        let mut by_port: BTreeMap<String, u32> = BTreeMap::new();
        for log in of_one.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            if log.event_name == ACCEPT {
                *by_port.entry(shown(&log.attributes, names::NETWORK_LOCAL_PORT)).or_default() += 1;
            }
        }
        for (port, count) in by_port {
            let who = (port, pid.clone(), executable.clone());
            *told.entry((who, service.clone())).or_default() += count;
        }
    }
}

/// A number or a text, as text; empty without it.
fn shown(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}
