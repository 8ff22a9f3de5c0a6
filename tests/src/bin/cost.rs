//! `cost TIER`: prints what each BPF program of the tier costs. Needs no other file, so that it runs in a
//! bare virtual machine.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use acceptd::bpf::Tier;
use acceptd_tests::cost::measure;

/// Few, because emulated CPUs are slow.
const ACCEPTS: u32 = 2000;

fn main() -> ExitCode {
    let tier =
        std::env::args().nth(1).and_then(|word| word.parse().ok()).and_then(|tier: u8| tier.try_into().ok());
    let Some(tier): Option<Tier> = tier else {
        eprintln!("usage: cost 1|2");
        return ExitCode::from(64);
    };
    match measure(tier, ACCEPTS) {
        Ok(costs) => {
            for cost in costs {
                println!("cost: {} {cost}", tier.number());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cost: {error}");
            ExitCode::FAILURE
        }
    }
}
