//! (c) The cost of tier 2's tracepoint on every system call's exit for other system calls.

use std::{hint::black_box, time::Instant};

use acceptd_tests::agent::Agent;
use rustix::process::getppid;
use serde_json::{Value as Json, json};

const CALLS: u32 = 1_000_000;
const ROUNDS: usize = 7;

pub(crate) fn measure() -> Json {
    let without = best();
    let agent = Agent::start();
    let with = best();
    let _ = agent.stop();
    let again = best();
    println!(
        "tax: getppid {without:.0} ns, with the agent {with:.0} ns ({:+.0}), after it {again:.0} ns",
        with - without
    );
    json!({ "getppid_ns": without, "with_agent_ns": with, "after_agent_ns": again, "ratio": with / without })
}

/// Nanoseconds per call, in the fastest of several rounds.
fn best() -> f64 {
    let round = || {
        let started = Instant::now();
        for _ in 0..CALLS {
            black_box(getppid());
        }
        started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}
