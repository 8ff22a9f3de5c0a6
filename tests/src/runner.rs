//! Runs scenarios where there is no cargo: one line for each on stdout, for whoever reads the serial line of a VM. It runs
//! what it is told to: what does not apply to a kernel is said by tests/kernels.toml, not found out here.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    panic::{
        PanicHookInfo, {self},
    },
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    agent,
    scenarios::{ALL, Need, Scenario},
    wait,
};

/// Waits that one scenario may have one after the other before it counts as stuck.
const WAITS: u32 = 4;

/// How often a scenario is tried whose agent the kernel kept from seeing all: a preemptible kernel does not run a program on a CPU
/// on which it was preempted. It says how often, and a failure of which it says nothing stands.
const ATTEMPTS: u32 = 3;

/// What to run, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The agent's tier, which the harness reads from `ACCEPTD_TEST_TIER`.
    pub tier: u8,
    /// Parts of names; empty: every scenario.
    pub only: Vec<String>,
    /// Whole names that are left out.
    pub skip: Vec<String>,
    /// Scenarios at a time.
    pub jobs: usize,
}

impl Plan {
    /// Reads `--tier 1|2 [--only PART]… [--skip NAME]… [--jobs N]`.
    ///
    /// # Errors
    /// A word that is not understood.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self { tier: 0, only: Vec::new(), skip: Vec::new(), jobs: 1 };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--tier" => plan.tier = value.parse().map_err(|_| format!("no tier: {value}"))?,
                "--jobs" => plan.jobs = value.parse().map_err(|_| format!("no number: {value}"))?,
                "--only" => plan.only.push(value),
                "--skip" => plan.skip.push(value),
                _ => return Err(format!("unknown: {word}")),
            }
        }
        if !matches!(plan.tier, 1 | 2) || plan.jobs == 0 {
            return Err("scenarios --tier 1|2 [--only PART]… [--skip NAME]… [--jobs N]".to_owned());
        }
        Ok(plan)
    }

    /// What needs a machine of its own is only wanted by its whole name.
    fn wants(&self, Scenario { name, needs, .. }: &Scenario) -> bool {
        if needs.contains(&Need::OwnGuest) {
            return self.only.iter().any(|part| part == name);
        }
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    fn takes(&self, scenario: &Scenario) -> bool {
        self.wants(scenario) && !self.skip.iter().any(|skipped| skipped == scenario.name)
    }
}

/// How one scenario ended. `Display` is its line.
struct Outcome {
    tier: u8,
    name: &'static str,
    took: Duration,
    /// Where and why it failed.
    failure: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tier, name, took, failure } = self;
        let took = took.as_millis();
        match failure {
            None => write!(out, "scenario {tier} {name} ok {took}"),
            Some(message) => write!(out, "scenario {tier} {name} FAILED {took} {}", one_line(message)),
        }
    }
}

/// Runs the plan; true when every scenario passed.
#[must_use]
pub fn run(plan: &Plan) -> bool {
    panic::set_hook(Box::new(note_panic));
    // Those that are skipped, too: whoever reads this knows then what there is on this architecture.
    for scenario in ALL.iter().filter(|scenario| plan.wants(scenario)) {
        println!("planned {} {}", plan.tier, scenario.name);
    }
    let (alone, together): (Vec<&Scenario>, Vec<&Scenario>) =
        ALL.iter().filter(|scenario| plan.takes(scenario)).partition(|scenario| scenario.alone);
    let counts = Mutex::new((0, 0));
    for (scenarios, jobs) in [(together, plan.jobs), (alone, 1)] {
        let waiting: Mutex<VecDeque<&Scenario>> = Mutex::new(scenarios.into());
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(scenario) = next(&waiting) {
                        let outcome = run_one(plan.tier, scenario);
                        println!("{outcome}");
                        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                        counts.0 += usize::from(outcome.failure.is_none());
                        counts.1 += usize::from(outcome.failure.is_some());
                    }
                });
            }
        });
    }
    let (passed, failed) = *counts.lock().unwrap_or_else(PoisonError::into_inner);
    println!("scenarios {}: {passed} passed, {failed} failed", plan.tier);
    failed == 0
}

fn next<'a>(waiting: &Mutex<VecDeque<&'a Scenario>>) -> Option<&'a Scenario> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Runs one scenario, and again if it failed where the kernel left something out.
fn run_one(tier: u8, scenario: &Scenario) -> Outcome {
    let started = Instant::now();
    let mut attempt = 1;
    let failure = loop {
        let Failure { message, left_out } = match run_once(scenario) {
            Ok(()) => break None,
            Err(failure) => failure,
        };
        if left_out == 0 || attempt == ATTEMPTS {
            break Some(message);
        }
        attempt += 1;
        println!(
            "again {tier} {}: the kernel left out {left_out} runs: {}",
            scenario.name,
            one_line(&message)
        );
    };
    Outcome { tier, name: scenario.name, took: started.elapsed(), failure }
}

/// Why a scenario failed.
struct Failure {
    message: String,
    /// Runs of its agents' programs that the kernel left out.
    left_out: u64,
}

impl Failure {
    fn of_the_runner(message: String) -> Self {
        Self { message, left_out: 0 }
    }
}

/// Runs one scenario in a thread of its own, which is left behind when it is stuck.
fn run_once(scenario: &Scenario) -> Result<(), Failure> {
    let (send, receive) = mpsc::channel();
    let body = scenario.run;
    let thread = thread::Builder::new().name(scenario.name.to_owned()).spawn(move || {
        let ended = panic::catch_unwind(body);
        let ended = ended.map_err(|_| Failure { message: PANIC.take(), left_out: agent::take_left_out() });
        // Nobody listens any more when it was given up as stuck.
        _ = send.send(ended);
    });
    thread.map_err(|error| Failure::of_the_runner(format!("no thread: {error}")))?;
    let patience = wait::deadline() * WAITS;
    let stuck = |_| Err(Failure::of_the_runner(format!("still runs after {patience:?}")));
    receive.recv_timeout(patience).unwrap_or_else(stuck)
}

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the message for the scenario's line, and shows those of a scenario's other threads.
fn note_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|at| format!("{}:{}: ", at.file(), at.line())).unwrap_or_default();
    let message = format!("{place}{}", info.payload_as_str().unwrap_or("(no message)"));
    eprintln!("panic in {}: {}", thread::current().name().unwrap_or("a thread"), one_line(&message));
    PANIC.set(message);
}

/// A message of several lines in one. A serial line is slow, so it is cut.
fn one_line(message: &str) -> String {
    const LONGEST: usize = 2000;
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use super::{Need, Outcome, Plan, Scenario, one_line};
    use crate::agent;

    fn scenario(name: &'static str, needs: &'static [Need]) -> Scenario {
        Scenario { name, needs, run: || (), alone: false }
    }

    fn plan(words: &str) -> Result<Plan, String> {
        Plan::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn takes_what_is_asked_for_without_what_is_skipped() {
        let plan = plan("--tier 2 --only rings:: --only ipv4 --skip rings::single --jobs 2").unwrap();
        assert_eq!((plan.tier, plan.jobs), (2, 2));
        let taken = ["rings::single", "rings::multishot", "sockets::ipv4", "sockets::ipv6"]
            .map(|name| plan.takes(&scenario(name, &[])));
        assert_eq!(taken, [false, true, true, false]);
    }

    #[test]
    fn what_needs_a_machine_of_its_own_is_named() {
        let own = scenario("settings::lockdown", &[Need::OwnGuest]);
        let takes = |words: &str| plan(&format!("--tier 1 {words}")).unwrap().takes(&own);
        assert_eq!(["", "--only settings", "--only settings::lockdown"].map(takes), [false, false, true]);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for words in ["", "--tier 3", "--tier", "--tier 1 --jobs 0", "--tier 1 --colour red"] {
            assert!(plan(words).is_err(), "{words}");
        }
    }

    #[test]
    fn again_where_the_kernel_left_out_runs_and_nowhere_else() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        fn fails() {
            RUNS.fetch_add(1, Ordering::Relaxed);
            panic!("as it is told");
        }
        fn fails_once() {
            agent::note_left_out(&serde_json::json!({ "hook_missed": 2 }));
            assert!(RUNS.fetch_add(1, Ordering::Relaxed) > 0, "the first time");
        }
        fn never_passes() {
            agent::note_left_out(&serde_json::json!({ "hook_missed": 2 }));
            fails();
        }
        for (run, passes, runs) in
            [(fails as fn(), false, 1), (fails_once, true, 2), (never_passes, false, super::ATTEMPTS)]
        {
            RUNS.store(0, Ordering::Relaxed);
            let outcome = super::run_one(1, &Scenario { run, ..scenario("a::b", &[]) });
            assert_eq!((outcome.failure.is_none(), RUNS.load(Ordering::Relaxed)), (passes, runs));
        }
    }

    #[test]
    fn a_line_is_one_line() {
        let failure = Some("a.rs:1: left\n  right".to_owned());
        let outcome = Outcome { tier: 1, name: "a::b", took: Duration::from_millis(7), failure };
        assert_eq!(outcome.to_string(), "scenario 1 a::b FAILED 7 a.rs:1: left right");
        let outcome = Outcome { failure: None, ..outcome };
        assert_eq!(outcome.to_string(), "scenario 1 a::b ok 7");
        assert_eq!(one_line(&"é".repeat(3000)).chars().count(), 2002);
    }
}
