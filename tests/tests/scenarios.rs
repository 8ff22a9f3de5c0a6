//! Runs every scenario natively, each as a libtest trial. Scenarios that this host cannot run are ignored,
//! with the reason on stderr.
#![forbid(unsafe_code)]

use std::{
    num::NonZero,
    sync::{PoisonError, RwLock},
    thread,
};

use acceptd_tests::{runner, scenarios::ALL};
use libtest_mimic::{Arguments, Failed, Trial, run};

/// Written while a scenario runs that must be alone, and read while another one runs.
static RUNNING: RwLock<()> = RwLock::new(());

/// Concurrent scenarios per CPU. More than one, since scenarios mostly wait.
const AT_ONCE: usize = 2;

fn main() {
    runner::keep_panic_messages();
    let mut arguments = Arguments::from_args();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    arguments.test_threads = arguments.test_threads.or(Some(AT_ONCE * processors));
    let trial = |scenario: &acceptd_tests::scenario::Scenario| {
        let scenario = *scenario;
        let missing = scenario.needs.iter().find_map(|need| need.missing_on_this_host());
        let is_asked_for = arguments.filter.as_ref().is_none_or(|filter| scenario.name.contains(filter));
        if let Some(missing) = missing
            && is_asked_for
            && !arguments.list
        {
            eprintln!("not applicable here: {}: {missing}; `cargo xtask vm` runs it", scenario.name);
        }
        let alone = scenario.alone;
        let trial = Trial::test(scenario.name, move || {
            // The lock guards nothing that a scenario could leave half done.
            let result = if alone {
                let _others = RUNNING.write().unwrap_or_else(PoisonError::into_inner);
                runner::run_with_deadline(&scenario)
            } else {
                let _alone = RUNNING.read().unwrap_or_else(PoisonError::into_inner);
                runner::run_with_deadline(&scenario)
            };
            result.map_err(Failed::from)
        });
        trial.with_ignored_flag(missing.is_some())
    };
    let all = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list;
    let conclusion = run(&arguments, ALL.iter().map(trial).collect());
    if all && !conclusion.has_failed() {
        let unseen = acceptd_tests::inbox::unseen_events();
        assert!(unseen.is_empty(), "no scenario made these events of the registry: {unseen:?}");
    }
    conclusion.exit();
}
