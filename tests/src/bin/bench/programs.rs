//! (e) What each program of tier 2 costs an accept. Those of tier 1 are measured where they run, by `cargo xtask bench`.

use acceptd::bpf::Tier;
use acceptd_tests::cost::measure as costs;
use serde_json::{Value as Json, json};

const ACCEPTS: u32 = 50_000;

pub(crate) fn measure() -> Json {
    let costs = costs(Tier::Two, ACCEPTS).expect("this kernel has tier 2");
    for cost in &costs {
        println!("cost: 2 {cost}");
    }
    let row = |cost: &acceptd_tests::cost::Cost| {
        json!({
            "program": cost.program,
            "runs_per_accept": cost.runs_per_accept,
            "ns_per_run": cost.ns_per_run,
            "verified_instructions": cost.verified_instructions,
        })
    };
    costs.iter().map(row).collect()
}
