//! Runs scenarios without cargo, inside a virtual machine, and prints one line for each result on stdout,
//! which `cargo xtask vm` reads from the serial console. It runs exactly what its arguments say:
//! tests/kernels.toml decides what does not apply to a kernel.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    panic::{self, PanicHookInfo},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    agent,
    scenario::{Need, Scenario},
    scenarios::ALL,
    wait,
};

/// A scenario counts as stuck after this many times [`wait::deadline`].
const WAITS: u32 = 4;

/// How often a failing scenario is run at most. It is repeated only if the kernel reports that it skipped
/// runs of the agent's programs (a preemptible kernel does not run a program on a CPU on which it was
/// preempted); any other failure is final.
const ATTEMPTS: u32 = 3;

/// Which scenarios to run, and how: the command line of the binary `scenarios`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The capture tier. It only labels the output: the harness itself reads `ACCEPTD_TEST_TIER`.
    pub tier: u8,
    /// Substrings of names; empty means every scenario.
    pub only: Vec<String>,
    /// Exact names to skip.
    pub skip: Vec<String>,
    /// How many scenarios run at the same time.
    pub jobs: usize,
    /// Whether this is a disposable virtual machine.
    pub in_guest: bool,
}

impl Plan {
    /// Parses `--tier 1|2 [--only PART]… [--skip NAME]… [--jobs N] [--guest]`.
    ///
    /// # Errors
    /// A message that names the argument at fault.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self { tier: 0, only: Vec::new(), skip: Vec::new(), jobs: 1, in_guest: false };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == "--guest" {
                plan.in_guest = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--tier" => {
                    plan.tier = value.parse().map_err(|_| format!("--tier needs 1 or 2, not {value}"))?;
                }
                "--jobs" => {
                    plan.jobs = value.parse().map_err(|_| format!("--jobs needs a number, not {value}"))?;
                }
                "--only" => plan.only.push(value),
                "--skip" => plan.skip.push(value),
                _ => return Err(format!("unknown argument: {word}")),
            }
        }
        if !matches!(plan.tier, 1 | 2) || plan.jobs == 0 {
            let usage = "usage: scenarios --tier 1|2 [--only PART]… [--skip NAME]… [--jobs N] [--guest]";
            return Err(usage.to_owned());
        }
        Ok(plan)
    }

    /// Whether `--only` selects the scenario. A scenario that needs a specially booted machine must be named
    /// in full.
    fn wants(&self, Scenario { name, needs, .. }: &Scenario) -> bool {
        if needs.contains(&Need::OwnGuest) {
            return self.only.iter().any(|part| part == name);
        }
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// Why the scenario must not run on this machine: it may change the system's clock, for example.
    fn refuses(&self, Scenario { needs, .. }: &Scenario) -> Option<&'static str> {
        let is_guest = |need: &&Need| matches!(need, Need::Guest | Need::OwnGuest);
        let need = needs.iter().find(is_guest).filter(|_| !self.in_guest)?;
        need.missing_on_this_host()
    }

    /// Whether the scenario is to run.
    fn takes(&self, scenario: &Scenario) -> bool {
        let is_skipped = self.skip.iter().any(|skipped| skipped == scenario.name);
        self.wants(scenario) && !is_skipped && self.refuses(scenario).is_none()
    }
}

/// The result of one scenario. `Display` is the line that `cargo xtask vm` parses.
struct ScenarioOutcome {
    tier: u8,
    name: &'static str,
    duration: Duration,
    /// The panic message with its source location, if it failed.
    failure: Option<String>,
}

impl fmt::Display for ScenarioOutcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tier, name, duration, failure } = self;
        let millis = duration.as_millis();
        match failure {
            None => write!(out, "scenario {tier} {name} ok {millis}"),
            Some(message) => write!(out, "scenario {tier} {name} FAILED {millis} {}", one_line(message)),
        }
    }
}

/// Runs the plan and prints the results. Returns whether every scenario passed.
#[must_use]
pub fn run(plan: &Plan) -> bool {
    keep_panic_messages();
    // Print skipped scenarios, too, so that the reader learns which scenarios exist on this architecture.
    for scenario in ALL.iter().filter(|scenario| plan.wants(scenario)) {
        println!("planned {} {}", plan.tier, scenario.name);
        if let Some(reason) = plan.refuses(scenario) {
            println!(
                "skipped {} {}: {reason}; `--guest` runs it in a virtual machine",
                plan.tier, scenario.name
            );
        }
    }
    let (alone, together): (Vec<&Scenario>, Vec<&Scenario>) =
        ALL.iter().filter(|scenario| plan.takes(scenario)).partition(|scenario| scenario.alone);
    let counts = Mutex::new((0, 0));
    for (scenarios, jobs) in [(together, plan.jobs), (alone, 1)] {
        let waiting: Mutex<VecDeque<&Scenario>> = Mutex::new(scenarios.into());
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(scenario) = pop_next(&waiting) {
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

fn pop_next<'a>(waiting: &Mutex<VecDeque<&'a Scenario>>) -> Option<&'a Scenario> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Runs one scenario, up to [`ATTEMPTS`] times if it fails while the kernel skips program runs.
fn run_one(tier: u8, scenario: &Scenario) -> ScenarioOutcome {
    let started = Instant::now();
    let mut attempt = 1;
    let failure = loop {
        let ScenarioFailure { message, missed_runs } = match run_once(scenario) {
            Ok(()) => break None,
            Err(failure) => failure,
        };
        if missed_runs == 0 || attempt == ATTEMPTS {
            break Some(message);
        }
        attempt += 1;
        println!(
            "again {tier} {}: the kernel skipped {missed_runs} program runs: {}",
            scenario.name,
            one_line(&message)
        );
    };
    ScenarioOutcome { tier, name: scenario.name, duration: started.elapsed(), failure }
}

/// Why a scenario failed.
struct ScenarioFailure {
    message: String,
    /// How many runs of its agents' programs the kernel skipped.
    missed_runs: u64,
}

impl ScenarioFailure {
    fn from_runner(message: String) -> Self {
        Self { message, missed_runs: 0 }
    }
}

/// Runs one scenario in a thread of its own, and gives it up when it takes longer than [`patience`].
///
/// # Errors
/// The message of its panic, or that it is stuck.
pub fn run_with_deadline(scenario: &Scenario) -> Result<(), String> {
    run_once(scenario).map_err(|failure| failure.message)
}

/// How long a scenario may run until it counts as stuck.
fn patience() -> Duration {
    wait::deadline() * WAITS
}

/// Runs one scenario in a thread of its own. A stuck thread is abandoned.
fn run_once(scenario: &Scenario) -> Result<(), ScenarioFailure> {
    let (send, receive) = mpsc::channel();
    let body = scenario.run;
    let thread = thread::Builder::new().name(scenario.name.to_owned()).spawn(move || {
        let result = panic::catch_unwind(body);
        let result = result
            .map_err(|_| ScenarioFailure { message: PANIC.take(), missed_runs: agent::take_missed_runs() });
        // The receiver is gone if this scenario was given up as stuck.
        _ = send.send(result);
    });
    thread.map_err(|error| ScenarioFailure::from_runner(format!("the thread does not start: {error}")))?;
    let stuck = |_| Err(ScenarioFailure::from_runner(format!("still running after {:?}", patience())));
    receive.recv_timeout(patience()).unwrap_or_else(stuck)
}

thread_local! {
    /// The message of this thread's last panic.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Makes the panics of scenarios the messages of their results.
pub fn keep_panic_messages() {
    panic::set_hook(Box::new(note_panic));
}

/// The panic hook: keeps the message for the scenario's result line, and prints it to stderr at once, since
/// panics of a scenario's other threads do not reach that line.
fn note_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|at| format!("{}:{}: ", at.file(), at.line())).unwrap_or_default();
    let message = format!("{place}{}", info.payload_as_str().unwrap_or("(no message)"));
    eprintln!("panic in {}: {}", thread::current().name().unwrap_or("a thread"), one_line(&message));
    PANIC.set(message);
}

/// Joins the lines of a message, and cuts it at 2,000 characters because the serial console is slow.
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

    use super::{Need, Plan, Scenario, ScenarioOutcome, one_line};
    use crate::agent;

    fn scenario(name: &'static str, needs: &'static [Need]) -> Scenario {
        Scenario { name, needs, run: || (), alone: false }
    }

    fn plan(words: &str) -> Result<Plan, String> {
        Plan::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn only_selects_by_substring_and_skip_by_exact_name() {
        let plan = plan("--tier 2 --only rings:: --only ipv4 --skip rings::single --jobs 2").unwrap();
        assert_eq!((plan.tier, plan.jobs), (2, 2));
        let taken = ["rings::single", "rings::multishot", "sockets::ipv4", "sockets::ipv6"]
            .map(|name| plan.takes(&scenario(name, &[])));
        assert_eq!(taken, [false, true, true, false]);
    }

    #[test]
    fn a_scenario_for_a_special_machine_needs_its_full_name() {
        let own = scenario("settings::lockdown", &[Need::OwnGuest]);
        let takes = |words: &str| plan(&format!("--tier 1 --guest {words}")).unwrap().takes(&own);
        assert_eq!(["", "--only settings", "--only settings::lockdown"].map(takes), [false, false, true]);
    }

    #[test]
    fn outside_of_a_guest_no_scenario_runs_that_needs_one() {
        let refused = |words: &str, need: &'static [Need]| {
            let plan = plan(&format!("--tier 2 {words} --only a::b")).unwrap();
            let scenario = scenario("a::b", need);
            assert_ne!(plan.takes(&scenario), plan.refuses(&scenario).is_some());
            plan.refuses(&scenario).is_some()
        };
        for need in [&[Need::Guest] as &[Need], &[Need::OwnGuest]] {
            assert_eq!([refused("", need), refused("--guest", need)], [true, false], "{need:?}");
        }
        assert!(!refused("", &[]) && !refused("", &[Need::Tun]));
    }

    #[test]
    fn unknown_or_incomplete_arguments_are_refused() {
        for words in ["", "--tier 3", "--tier", "--tier 1 --jobs 0", "--tier 1 --colour red"] {
            assert!(plan(words).is_err(), "{words}");
        }
    }

    #[test]
    fn a_failure_is_repeated_only_if_the_kernel_skipped_runs() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        fn fails() {
            RUNS.fetch_add(1, Ordering::Relaxed);
            panic!("on purpose");
        }
        fn fails_once() {
            agent::note_missed_runs(&serde_json::json!({ "hook_missed": { "sys_exit": 2 } }));
            assert!(RUNS.fetch_add(1, Ordering::Relaxed) > 0, "the first attempt");
        }
        fn never_passes() {
            agent::note_missed_runs(&serde_json::json!({ "hook_missed": { "sys_exit": 2 } }));
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
        let outcome = ScenarioOutcome { tier: 1, name: "a::b", duration: Duration::from_millis(7), failure };
        assert_eq!(outcome.to_string(), "scenario 1 a::b FAILED 7 a.rs:1: left right");
        let outcome = ScenarioOutcome { failure: None, ..outcome };
        assert_eq!(outcome.to_string(), "scenario 1 a::b ok 7");
        assert_eq!(one_line(&"é".repeat(3000)).chars().count(), 2002);
    }
}
