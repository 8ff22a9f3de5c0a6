//! `cargo xtask build`: the agent's binary. collector-bridge/build.rs finds the tools of `setup` by itself.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::command;
use crate::setup;
use crate::workspace::Workspace;

/// Sets up what is missing, builds `acceptd` in the release profile and returns its path.
pub(crate) fn release(workspace: &Workspace) -> Result<PathBuf> {
    packages(workspace, &["acceptd"])?;
    Ok(workspace.target().join("release/acceptd"))
}

/// Like [`release`], for any packages.
pub(crate) fn packages(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    setup::run(workspace)?;
    eprintln!("building {} (release; the first time takes a few minutes)", packages.join(", "));
    let started = Instant::now();
    let mut build = command::cargo(workspace, &["build", "--release", "--locked"]);
    build.args(packages.iter().flat_map(|package| ["--package", package]));
    command::run(build)?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    Ok(())
}
