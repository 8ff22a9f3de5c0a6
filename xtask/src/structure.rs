//! `cargo xtask structure`: in each crate no file depends on itself through others, and in
//! `collector-bridge/src` no module depends on a module above it.
//!
//! A dependency is a path that begins with `crate::`, `super::`, `self::` or the name of a child module,
//! outside of comments and unit tests. A name that a file only re-exports leads to the file that has it.

mod imports;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, bail};
use imports::Crate;
use xtask_support::Workspace;

/// The folders whose files must not depend on each other in a circle.
const SOURCES: [&str; 10] = [
    "collector-bridge/src",
    "collector-bridge/otlp/src",
    "collector-bridge/spool/src",
    "common/src",
    "ebpf/src",
    "tests/src",
    "tests/suites/src",
    "xtask/src",
    "tests/kubernetes/src",
    "tests/suites/support/src",
];

/// Files that depend on each other on purpose: the table of settings names the types of the schema, whose
/// macro fills the table.
const CIRCLES: [[&str; 2]; 1] =
    [["collector-bridge/src/config/schema.rs", "collector-bridge/src/config/table.rs"]];

/// The modules of `collector-bridge/src`, from the ground up. A module may depend on those before it.
const MODULES: [&str; 11] = [
    "clock",
    "config",
    "bpf",
    "identity",
    "listener",
    "accounting",
    "mapping",
    "pipeline",
    "health",
    "preflight",
    "cmd",
];

/// Checks all crates, and names every circle and every arrow upwards.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut faults = Vec::new();
    for folder in SOURCES {
        let source = Crate::read(workspace.root(), Path::new(folder))?;
        let arrows = source.arrows();
        faults.extend(circles(&arrows).iter().map(|files| format!("a circle: {}", files.join(" -> "))));
        if folder == "collector-bridge/src" {
            faults.extend(upwards(&arrows, folder));
        }
    }
    if faults.is_empty() {
        println!("{} crates: no circle of files, no arrow upwards between modules", SOURCES.len());
        return Ok(());
    }
    bail!("{}\nmove the shared item to a file below both", faults.join("\n"))
}

/// Each file with the files that it depends on.
type Arrows = BTreeMap<String, Vec<String>>;

/// The groups of files that reach each other, but for the pairs in [`CIRCLES`].
fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let reached: BTreeMap<&str, Vec<&str>> =
        arrows.keys().map(|file| (file.as_str(), reachable(arrows, file))).collect();
    let mut found: Vec<Vec<String>> = Vec::new();
    for file in arrows.keys() {
        let group: Vec<String> = reached[file.as_str()]
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(&file.as_str())))
            .map(|other| (*other).to_owned())
            .collect();
        let is_allowed = CIRCLES.iter().any(|pair| pair.as_slice() == group);
        if group.len() > 1 && !is_allowed && !found.contains(&group) {
            found.push(group);
        }
    }
    found
}

/// The files that `start` depends on, directly or through others, in order; `start` is among them if it is in
/// a circle.
fn reachable<'a>(arrows: &'a Arrows, start: &str) -> Vec<&'a str> {
    let mut open: Vec<&str> = arrows[start].iter().map(String::as_str).collect();
    let mut seen: Vec<&str> = Vec::new();
    while let Some(file) = open.pop() {
        if let Err(at) = seen.binary_search(&file) {
            seen.insert(at, file);
            open.extend(arrows.get(file).into_iter().flatten().map(String::as_str));
        }
    }
    seen
}

/// The arrows from a module to one above it.
fn upwards(arrows: &Arrows, folder: &str) -> Vec<String> {
    let level = |file: &str| {
        let inside = file.strip_prefix(folder)?.trim_start_matches('/');
        let module = inside.split(['/', '.']).next()?;
        MODULES.iter().position(|known| *known == module)
    };
    let mut found = Vec::new();
    for (from, targets) in arrows {
        for to in targets {
            if level(from).zip(level(to)).is_some_and(|(from, to)| from < to) {
                found.push(format!("upwards: {from} -> {to}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(list: &[(&str, &[&str])]) -> Arrows {
        list.iter()
            .map(|(from, to)| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn a_circle_of_three_is_found_once() {
        let found = circles(&arrows(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("d", &["a"])]));
        assert_eq!(found, [["a", "b", "c"]]);
    }

    #[test]
    fn a_chain_is_no_circle() {
        assert_eq!(circles(&arrows(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), [[""; 0]; 0]);
    }

    #[test]
    fn an_arrow_to_a_higher_module_is_found() {
        let arrows = arrows(&[("x/config/a.rs", &["x/bpf.rs"]), ("x/bpf.rs", &["x/config/a.rs"])]);
        assert_eq!(upwards(&arrows, "x"), ["upwards: x/config/a.rs -> x/bpf.rs"]);
    }
}
