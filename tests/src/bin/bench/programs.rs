//! (e) The cost of each BPF program of tier 2 per accept. `cargo xtask bench` measures those of tier 1 in a
//! virtual machine.

use acceptd::bpf::Tier;
use acceptd_tests::cost::measure as costs;
use serde_json::{Value as Json, json};

const ACCEPTS: u32 = 50_000;

pub(crate) fn measure() -> Json {
    let costs = costs(Tier::Two, ACCEPTS).expect("this kernel has tier 2");
    for cost in &costs {
        println!("cost: 2 {cost}");
    }
    let row = |cost: &acceptd_tests::cost::ProgramCost| {
        json!({
            "program": cost.program,
            "runs_per_accept": cost.runs_per_accept,
            "ns_per_run": cost.ns_per_run,
            "verified_instructions": cost.verified_instructions,
        })
    };
    costs.iter().map(row).collect()
}
