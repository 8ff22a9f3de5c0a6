//! `soak --quick|--full [--collector PATH]`: whatever happens between the ring and the Collector's answer, each accept arrives,
//! is kept, or is counted. What arrived is held against what the servers of the load logged themselves.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "what cannot be checked says so and fails")]

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
mod toxic;

use std::{path::Path, process::ExitCode};

use serde_json::{Map, Value as Json, json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (full, collector) = match words[..] {
        ["--quick", "--collector", path] => (false, path),
        ["--full", "--collector", path] => (true, path),
        // The processes that the load consists of: they must not share the agent's fate, nor the checker's memory.
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
    let parts: [(&str, Json); 6] = [
        ("crowd", crowd::measure(full)),
        ("kills", kills::measure(full)),
        ("damage", damage::measure()),
        ("outage", outage::measure(full)),
        ("toxic", toxic::measure(full)),
        ("restarts", restarts::measure(full, Path::new(collector))),
    ];
    let parts: Map<_, _> = parts.into_iter().map(|(name, figures)| (name.to_owned(), figures)).collect();
    println!("json: {}", json!({ "full": full, "parts": parts }));
    ExitCode::SUCCESS
}
