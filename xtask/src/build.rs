//! `cargo xtask build`: the agent's binary. collector-bridge/build.rs finds the tools of `setup` by itself.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::command;
use crate::setup;
use crate::workspace::Workspace;

/// Sets up what is missing, builds `acceptd` in the release profile and returns its path.
pub(crate) fn release(workspace: &Workspace) -> Result<PathBuf> {
    build(workspace, "acceptd", &["--package", "acceptd"])?;
    Ok(workspace.target().join("release/acceptd"))
}

/// Builds the agent with the programs of the suites, and returns the folder that they are in. All suites use this one build: with
/// other packages beside it, cargo compiles the agent's dependencies anew, for minutes.
pub(crate) fn suites(workspace: &Workspace) -> Result<PathBuf> {
    let packages = ["--package", "acceptd", "--package", "acceptd-tests"];
    let programs = ["--bin", "acceptd", "--bin", "bench", "--bin", "soak"];
    build(workspace, "acceptd, bench and soak", &[packages.as_slice(), &programs].concat())?;
    Ok(workspace.target().join("release"))
}

fn build(workspace: &Workspace, what: &str, arguments: &[&str]) -> Result<()> {
    setup::run(workspace)?;
    eprintln!("building {what} (release; the first time takes a few minutes)");
    let started = Instant::now();
    let mut build = command::cargo(workspace, &["build", "--release", "--locked"]);
    build.args(arguments);
    command::run(build)?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    Ok(())
}
