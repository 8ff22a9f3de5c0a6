//! `soak --quick|--full --collector PATH [PART]…`: whatever fails between the ring buffer and the
//! Collector's answer, each accept is delivered, spooled, or counted as lost. The reference is the log that
//! the servers of the load write themselves. Runs every part, or those that are named. Prints a line for each
//! part, and all figures as JSON.
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

/// A part of the soak, which returns its figures.
type Part<'a> = (&'a str, Box<dyn Fn() -> Json + 'a>);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (full, collector, only) = match words[..] {
        ["--quick", "--collector", path, ref only @ ..] => (false, path, only),
        ["--full", "--collector", path, ref only @ ..] => (true, path, only),
        // Child processes that make the load, separate from both the agent and the checker.
        ["load", rate, log] => return load::run(rate.parse().expect("a rate"), Path::new(log)),
        ["hostile", number, lives, each, ..] => {
            let number = number.parse().expect("a number");
            return hostile::run(number, lives.parse().expect("a number"), each.parse().expect("a number"));
        }
        _ => {
            eprintln!("usage: soak --quick|--full --collector PATH [PART]…");
            return ExitCode::from(64);
        }
    };
    let parts: [Part<'_>; 7] = [
        ("crowd", Box::new(|| crowd::measure(full))),
        ("kills", Box::new(|| kills::measure(full))),
        ("damage", Box::new(damage::measure)),
        ("outage", Box::new(|| outage::measure(full))),
        ("toxic", Box::new(|| toxic::measure(full))),
        ("starts", Box::new(|| starts::measure(full))),
        ("restarts", Box::new(|| restarts::measure(full, Path::new(collector)))),
    ];
    if let Some(unknown) = only.iter().find(|name| parts.iter().all(|(part, _)| part != *name)) {
        let names = parts.each_ref().map(|(part, _)| *part).join(", ");
        eprintln!("soak: {unknown} is not a part: choose from {names}");
        return ExitCode::from(64);
    }
    let figures: Map<_, _> = parts
        .iter()
        .filter(|(part, _)| only.is_empty() || only.contains(part))
        .map(|(part, measure)| ((*part).to_owned(), measure()))
        .collect();
    println!("json: {}", json!({ "full": full, "parts": figures }));
    ExitCode::SUCCESS
}
