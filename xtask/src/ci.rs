//! `cargo xtask ci`: what .ci/run calls on a clean clone.

use std::{process::Command, thread, time::Instant};

use anyhow::{Result, bail};

use crate::{
    Extent, backends, bench, codegen, collector, command, e2e, fuzz, kubernetes, setup,
    setup::{Tool, install_tool, toolchain},
    soak, test, vm,
    workspace::Workspace,
};

const CARGO_DENY: Tool<'_> = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    toolchain: None,
    optimized: false,
    takes: "two to three minutes",
};

const QUICK: Extent = Extent { quick: true, full: false };

type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// Cheap ones first; a failed step does not keep the others from running.
const STEPS: [Step; 12] = [
    ("format", format),
    ("codegen", |workspace| codegen::run(workspace, true)),
    ("clippy", clippy),
    ("deny", deny),
    ("test", test::run),
    ("fuzz", |workspace| fuzz::run(workspace, QUICK)),
    ("kubernetes", kubernetes::run),
    ("e2e", |workspace| e2e::run(workspace, QUICK)),
    ("soak", |workspace| soak::run(workspace, QUICK)),
    ("backends", |workspace| backends::run(workspace, QUICK)),
    ("vm", vm::quick),
    ("bench", |workspace| bench::run(workspace, QUICK)),
];

/// Programs in Go that steps need, in the order in which they do: built ahead, while a step waits or uses one CPU.
const AHEAD: [fn(&Workspace) -> Result<()>; 4] =
    [kubernetes::ahead, collector::ahead, collector::elastic_ahead, backends::ahead];

/// Runs every step and ends with the line `N passed, N failed`.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    thread::scope(|scope| {
        // What fails here fails again in the step that needs it, which says so.
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

fn format(workspace: &Workspace) -> Result<()> {
    rust_components(workspace)?;
    command::run(command::cargo(workspace, &["fmt", "--all", "--check"]))?;
    // The eBPF crate is outside the workspace, and its own nightly has no rustfmt: ours formats it.
    let mut ebpf = Command::new("rustfmt");
    ebpf.args(["--check", "--edition", "2024", "ebpf/src/main.rs"]).current_dir(workspace.root());
    command::run(ebpf)
}

fn clippy(workspace: &Workspace) -> Result<()> {
    rust_components(workspace)?;
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    command::run(command::cargo(workspace, &arguments))
}

/// Bans, licences and sources only: the advisory database cannot be reached from every CI.
fn deny(workspace: &Workspace) -> Result<()> {
    install_tool(workspace, &CARGO_DENY)?;
    println!("checking bans, licenses and sources; advisories are not checked here");
    let mut deny = Command::new(workspace.tool("cargo-deny"));
    deny.args(["--workspace", "check", "bans", "licenses", "sources"]).current_dir(workspace.root());
    command::run(deny)
}

/// The pinned toolchain may have been installed without its components.
fn rust_components(workspace: &Workspace) -> Result<()> {
    toolchain(&setup::pinned_toolchain(workspace, "rust-toolchain.toml")?, &["rustfmt", "clippy"])
}
