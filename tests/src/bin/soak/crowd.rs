//! A million short connections to processes that forge their identity ([`hostile`]): every record has the
//! process that accepted, and the agent's memory stays within its bound.

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
use acceptd_tests::{
    agent::Agent,
    inbox::{ACCEPT, Inbox},
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use serde_json::{Value as Json, json};

use crate::{
    hostile::{self, EXECUTABLES},
    sink,
};

/// How many hostile processes run at a time.
const PROCESSES: usize = 4;

/// How many times each process accepts under a new executable: it calls exec(2) in between.
const LIVES: u32 = 10;

/// The bound on the agent's anonymous memory: one cached identity per life, and the records in flight.
const BOUND_KIB: u64 = 48 << 10;

/// The identity of an acceptor in a record: port, process id, executable.
type Acceptor = (String, String, String);

/// How long the whole run may take.
const PATIENCE: Duration = Duration::from_mins(20);

/// The number of records by acceptor and service name.
type Counts = BTreeMap<(Acceptor, String), u32>;

pub(crate) fn measure(full: bool) -> Json {
    let each: u32 = if full { 25_000 } else { 500 };
    let counts: Arc<Mutex<Counts>> = Arc::default();
    let taker = Arc::clone(&counts);
    let address = sink::serve(move |received| {
        if let Received::Logs(request) = received {
            note(&mut taker.lock().expect("an unpoisoned lock"), request);
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
    let is_over = |one: &mut Child| one.try_wait().expect("waitpid").is_some();
    while !crowd.iter_mut().all(is_over) {
        assert!(Instant::now() < end, "the crowd still accepts");
        peak = peak.max(agent.anonymous_kib());
        thread::sleep(Duration::from_millis(100));
    }
    let crowd = crowd.into_iter().enumerate();
    // Each acceptor, with the prefix of the service names that it forges.
    let truth: BTreeMap<Acceptor, String> = crowd
        .flat_map(|(number, one)| lives(one).map(move |acceptor| (acceptor, hostile::forged_by(number))))
        .collect();
    assert_eq!(truth.len(), PROCESSES * LIVES as usize, "{truth:?}");
    let accepted = u64::from(each) * truth.len() as u64;
    let ledger = agent.terminate();
    let lost = ledger["capture"]["lost"]["ring"].as_u64().expect("a count");
    let counts = counts.lock().expect("an unpoisoned lock");
    // Other processes of this host accept, too.
    let is_of_crowd = |(port, pid, _): &Acceptor| {
        truth.keys().any(|(own_port, own_pid, _)| own_port == port || own_pid == pid)
    };
    let (mut records, mut forged, mut seen) = (0, 0, BTreeSet::new());
    for ((acceptor, service), count) in counts.iter().filter(|((acceptor, _), _)| is_of_crowd(acceptor)) {
        let own = truth
            .get(acceptor)
            .unwrap_or_else(|| panic!("{count} records of {acceptor:?}, which does not exist: {truth:?}"));
        let is_forged = service.starts_with(own);
        assert!(
            is_forged || *service == format!("unknown_service:{}", acceptor.2),
            "{acceptor:?} is not the service {service}"
        );
        records += u64::from(*count);
        forged += u64::from(is_forged);
        seen.insert(acceptor);
    }
    println!(
        "crowd: {accepted} accepts by {PROCESSES} hostile processes, {LIVES} executables each: {records} records, {lost} counted as lost, none with another process; {forged} with a service name that the process forged for itself; anonymous memory {peak} KiB at most, the bound is {BOUND_KIB}",
    );
    assert_eq!(records + lost, accepted, "{ledger}");
    assert!(lost < accepted / 10, "{ledger}");
    assert_eq!(seen.len(), truth.len(), "{counts:?}");
    assert!(forged > 0, "no published identity was read: {counts:?}");
    assert!(peak < BOUND_KIB, "{peak} KiB");
    json!({
        "accepts": accepted, "records": records, "lost": lost, "lives": truth.len(),
        "rss_anon_peak_kib": peak, "bound_kib": BOUND_KIB,
    })
}

/// The identities that one hostile process had, as it printed them.
fn lives(mut one: Child) -> impl Iterator<Item = Acceptor> {
    let status = one.wait().expect("waitpid");
    assert!(status.success(), "{status}");
    let lines = BufReader::new(one.stdout.take().expect("piped")).lines();
    let acceptor = |line: String| {
        let [port, pid, executable] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (port.to_owned(), pid.to_owned(), executable.to_owned())
    };
    lines.map(move |line| acceptor(line.expect("text")))
}

/// Counts the accept records of a request, and reads nothing else, to keep up with the load.
fn note(counts: &mut Counts, request: &ExportLogsServiceRequest) {
    for group in &request.resource_logs {
        let resource = group.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        let [pid, executable, service] =
            [names::PROCESS_PID, names::PROCESS_EXECUTABLE_NAME, names::SERVICE_NAME]
                .map(|key| attribute_text(resource, key));
        let mut by_port: BTreeMap<String, u32> = BTreeMap::new();
        for log in group.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            if log.event_name == ACCEPT {
                *by_port.entry(attribute_text(&log.attributes, names::NETWORK_LOCAL_PORT)).or_default() += 1;
            }
        }
        for (port, count) in by_port {
            let acceptor = (port, pid.clone(), executable.clone());
            *counts.entry((acceptor, service.clone())).or_default() += count;
        }
    }
}

/// An integer or text attribute, as text; empty if it is absent.
fn attribute_text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}
