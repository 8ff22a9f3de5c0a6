//! Runs every scenario natively, each as a test.
#![forbid(unsafe_code)]

use acceptd_tests::scenarios::ALL;
use libtest_mimic::{Arguments, Trial, run};

fn main() {
    let trial = |scenario: &acceptd_tests::scenarios::Scenario| {
        let run = scenario.run;
        Trial::test(scenario.name, move || {
            run();
            Ok(())
        })
    };
    let arguments = Arguments::from_args();
    let all = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list;
    let conclusion = run(&arguments, ALL.iter().map(trial).collect());
    if all && !conclusion.has_failed() {
        let unseen = acceptd_tests::agent::unseen_events();
        assert!(unseen.is_empty(), "no scenario made these events of the catalogue: {unseen:?}");
    }
    conclusion.exit();
}
