//! (d) The cost of a survey of all listeners on a host with many open files: the BPF iterator visits every
//! file.

use std::{fs::File, thread, time::Duration};

use acceptd_tests::agent::Agent;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value as Json, json};

use crate::storm::cpu_ticks;

/// Below the usual hard limit of a process.
const FILES: u32 = 15_000;
const SECONDS: u64 = 4;
const SURVEYS_PER_SECOND: u64 = 10;

pub(crate) fn measure() -> Json {
    let few = cpu_per_survey();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("within the hard limit");
    let files: Vec<File> = (0..FILES).map(|_| File::open("/dev/null").expect("a file")).collect();
    let many = cpu_per_survey();
    drop(files);
    let nanos = (many - few) * 1e6 / f64::from(FILES);
    println!(
        "survey: a survey takes {few:.1} ms of CPU, {many:.1} ms with {FILES} more open files: {nanos:.0} ns a file"
    );
    json!({ "look_ms": few, "files": FILES, "look_with_files_ms": many, "ns_per_file": nanos })
}

/// Milliseconds of the agent's CPU time per survey.
fn cpu_per_survey() -> f64 {
    let agent = Agent::with_flags(&["--set", "listener.interval=100ms"]);
    let pid = agent.pid().as_raw_nonzero().get();
    let before = cpu_ticks(pid);
    thread::sleep(Duration::from_secs(SECONDS));
    let ticks = cpu_ticks(pid) - before;
    let _ = agent.terminate();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let per_survey = (ticks * 10) as f64 / (SECONDS * SURVEYS_PER_SECOND) as f64;
    per_survey
}
