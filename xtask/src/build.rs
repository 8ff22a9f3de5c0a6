//! `cargo xtask build`: the agent's binary. collector-bridge/build.rs finds the tools of `setup` by itself.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::command;
use crate::setup;
use crate::workspace::Workspace;

/// What is shipped.
pub(crate) const RELEASE: &str = "release";

/// Built in half the time, and almost as fast.
pub(crate) const QUICK: &str = "quick";

/// Sets up what is missing, builds `acceptd` in the release profile and returns its path.
pub(crate) fn release(workspace: &Workspace) -> Result<PathBuf> {
    build(workspace, RELEASE, "acceptd", &["--package", "acceptd"])?;
    Ok(workspace.target().join("release/acceptd"))
}

/// Builds the agent with the programs of the suites, and returns the folder that they are in. All suites use this one build: with
/// other packages beside it, cargo compiles the agent's dependencies anew, for minutes. What is not measured for good is built in
/// the profile [`QUICK`].
pub(crate) fn suites(workspace: &Workspace, profile: &str) -> Result<PathBuf> {
    let packages = ["--package", "acceptd", "--package", "acceptd-tests"];
    let programs = ["--bin", "acceptd", "--bin", "bench", "--bin", "soak"];
    build(workspace, profile, "acceptd, bench and soak", &[packages.as_slice(), &programs].concat())?;
    Ok(workspace.target().join(profile))
}

fn build(workspace: &Workspace, profile: &str, what: &str, arguments: &[&str]) -> Result<()> {
    setup::run(workspace)?;
    eprintln!("building {what} (profile {profile}; the first time takes a few minutes)");
    let started = Instant::now();
    let mut build = command::cargo(workspace, &["build", "--profile", profile, "--locked"]);
    build.args(arguments);
    command::run(build)?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    Ok(())
}
