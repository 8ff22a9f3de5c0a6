//! `cargo xtask ci`: what .ci/run calls on a clean clone.

use std::{thread, time::Instant};

use anyhow::{Result, bail};
use xtask_support::{Extent, Workspace};

use crate::{
    bench, codegen, externals, fuzz, kubernetes, language, lint, setup, soak, structure, suites, test, vm,
};

const QUICK: Extent = Extent::QUICK;

type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// Cheap ones first; a failed step does not keep the others from running.
const STEPS: [Step; 14] = [
    ("format", lint::format),
    ("language", language::run),
    ("structure", structure::run),
    ("codegen", |workspace| codegen::run(workspace, true)),
    ("clippy", lint::clippy),
    ("deny", lint::deny),
    ("test", test::run),
    ("fuzz", |workspace| fuzz::run(workspace, QUICK)),
    ("kubernetes", kubernetes::run),
    ("e2e", |workspace| suites::e2e(workspace, QUICK)),
    ("soak", |workspace| soak::run(workspace, QUICK)),
    ("backends", |workspace| suites::backends(workspace, QUICK)),
    ("vm", vm::quick),
    ("bench", |workspace| bench::run(workspace, QUICK)),
];

/// The Go programs that steps need, in the order in which they need them. They are built ahead, while a step
/// waits or uses one CPU.
const AHEAD: [fn(&Workspace) -> Result<()>; 2] = [kubernetes::build_ahead, externals::build_ahead];

/// Runs every step and ends with the line `N passed, N failed`.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    thread::scope(|scope| {
        // A build that fails here fails again in the step that needs it, which reports the error.
        scope.spawn(|| AHEAD.iter().for_each(|build| drop(build(workspace))));
        run_steps(workspace)
    })
}

fn run_steps(workspace: &Workspace) -> Result<()> {
    setup::run(workspace)?;
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = step(workspace);
        let seconds = started.elapsed().as_secs();
        match outcome {
            Ok(()) => println!("== {name}: passed, {seconds} s"),
            Err(error) => {
                println!("== {name}: failed, {seconds} s: {error:#}");
                failed.push(name);
            }
        }
    }
    println!("\n{} passed, {} failed", STEPS.len() - failed.len(), failed.len());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
