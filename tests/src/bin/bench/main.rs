//! `bench --quick|--full`: measures the cost of acceptd, as ratios within one run, since absolute figures
//! depend on the machine and its other load. Prints a line for each measurement, and all figures as JSON.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a measurement that cannot be made panics with the reason")]

mod pipeline;
mod programs;
mod sample;
mod sdk;
mod storm;
mod survey;
mod tax;

use std::process::ExitCode;

use serde_json::json;

/// The lowest ratio of the pipeline to the OpenTelemetry SDK with which `--full` passes.
const LEAST_RATIO: f64 = 5.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--quick"] => measure(false),
        ["--full"] => measure(true),
        // Child processes of the measurements.
        ["send", sender, endpoint, records] => {
            pipeline::send(sender, endpoint, records.parse().expect("a number"))
        }
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
    // A quick run is too short for the ratio to be reliable.
    if full && ratio < LEAST_RATIO {
        eprintln!("bench: {ratio:.1} times the SDK is below the floor of {LEAST_RATIO}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
