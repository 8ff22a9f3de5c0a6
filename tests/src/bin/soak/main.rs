//! `soak --quick|--full --collector PATH`: whatever fails between the ring buffer and the Collector's answer,
//! each accept is delivered, spooled, or counted as lost. The reference is the log that the servers of the
//! load write themselves. Prints a line for each part, and all figures as JSON.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a check that cannot continue panics with the reason")]

mod chance;
mod collector;
mod crowd;
mod damage;
mod hostile;
mod kills;
mod load;
mod outage;
mod restarts;
mod sink;
mod starts;
mod toxic;

use std::{path::Path, process::ExitCode};

use serde_json::{Map, Value as Json, json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (full, collector) = match words[..] {
        ["--quick", "--collector", path] => (false, path),
        ["--full", "--collector", path] => (true, path),
        // Child processes that make the load, separate from both the agent and the checker.
        ["load", rate, log] => return load::run(rate.parse().expect("a rate"), Path::new(log)),
        ["hostile", number, lives, each, ..] => {
            let number = number.parse().expect("a number");
            return hostile::run(number, lives.parse().expect("a number"), each.parse().expect("a number"));
        }
        _ => {
            eprintln!("usage: soak --quick|--full --collector PATH");
            return ExitCode::from(64);
        }
    };
    let parts: [(&str, Json); 7] = [
        ("crowd", crowd::measure(full)),
        ("kills", kills::measure(full)),
        ("damage", damage::measure()),
        ("outage", outage::measure(full)),
        ("toxic", toxic::measure(full)),
        ("starts", starts::measure(full)),
        ("restarts", restarts::measure(full, Path::new(collector))),
    ];
    let parts: Map<_, _> = parts.into_iter().map(|(name, figures)| (name.to_owned(), figures)).collect();
    println!("json: {}", json!({ "full": full, "parts": parts }));
    ExitCode::SUCCESS
}
