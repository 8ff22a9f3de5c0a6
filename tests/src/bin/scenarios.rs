//! Runs scenarios on a machine without cargo: `scenarios --tier 1|2 [--only PART]… [--skip NAME]… [--guest]`.
//! Without `--guest`, it skips those that need a disposable virtual machine.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use acceptd_tests::runner::{self, Plan};

fn main() -> ExitCode {
    match Plan::parse(std::env::args().skip(1)) {
        Ok(plan) if runner::run(&plan) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("scenarios: {message}");
            ExitCode::from(64)
        }
    }
}
