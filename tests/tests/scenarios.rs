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
    run(&Arguments::from_args(), ALL.iter().map(trial).collect()).exit();
}
