//! `bench --quick|--full`: what acceptd costs, as ratios measured in one run.
//!
//! Absolute figures depend on the machine and on what else it does; the ratios much less.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a measurement that cannot be made says so and fails")]

mod pipeline;
mod programs;
mod sample;
mod sdk;
mod storm;
mod survey;
mod tax;

use std::process::ExitCode;

use serde_json::json;

/// The project's floor for the pipeline against the SDK.
const LEAST_RATIO: f64 = 5.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--quick"] => measure(false),
        ["--full"] => measure(true),
        // The processes that a measurement consists of.
        ["send", who, endpoint, records] => pipeline::send(who, endpoint, records.parse().expect("a number")),
        ["load", seconds] => storm::load(seconds.parse().expect("a number")),
        _ => {
            eprintln!("usage: bench --quick|--full");
            ExitCode::from(64)
        }
    }
}

fn measure(full: bool) -> ExitCode {
    let pipeline = pipeline::measure(full);
    let storm = storm::measure(full);
    let tax = tax::measure();
    let survey = survey::measure();
    let programs = programs::measure();
    let report = json!({
        "full": full,
        "pipeline": pipeline,
        "storm": storm,
        "tax": tax,
        "survey": survey,
        "programs": programs,
    });
    println!("json: {report}");
    let ratio = pipeline["ratio"].as_f64().unwrap_or_default();
    let lost = storm["lost"].as_u64();
    if lost != Some(0) {
        eprintln!("bench: the storm lost {lost:?} accepts");
        return ExitCode::FAILURE;
    }
    // Quick runs are too short to be held to the figure.
    if full && ratio < LEAST_RATIO {
        eprintln!("bench: {ratio:.1} times the SDK is below the floor of {LEAST_RATIO}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
