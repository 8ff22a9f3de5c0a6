//! What runs in a guest: the agent, the scenarios, the program that they start, and the one that measures.
//! Of the host's architecture they are those that were built for the other suites, with the libraries that they need.
//! For arm64 they are static ones, built for nothing else.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::matrix::Arch;
use crate::{apt, build, command, libraries, setup, workspace::Workspace};

const AGENT: &str = "acceptd";
const HARNESS: [&str; 3] = ["scenarios", "acceptor", "cost"];

/// Builds them for an architecture; the folder that has them where the guest will.
pub(super) fn build(workspace: &Workspace, arch: Arch) -> Result<PathBuf> {
    setup::run(workspace)?;
    let folder = workspace.path("target/vm/programs").join(arch.name());
    // Of a run before.
    _ = std::fs::remove_dir_all(&folder);
    match arch {
        Arch::X86_64 => of_this_host(workspace, &folder)?,
        Arch::Arm64 => of_arm64(workspace, &folder)?,
    }
    Ok(folder)
}

/// The agent as the suites have it, and the harness as the tests do: in this profile a scenario that panics does not end the others.
fn of_this_host(workspace: &Workspace, folder: &Path) -> Result<()> {
    apt::require("strip", "--version", "binutils")?;
    let built = build::suites(workspace, build::QUICK)?;
    // Not `cargo build`: tests ask for more features of some dependencies, which would be built once more.
    command::run(command::cargo(workspace, &["test", "--workspace", "--no-run", "--locked", "--quiet"]))?;
    let tested = workspace.target().join("debug");
    let programs = std::iter::once(built.join(AGENT)).chain(HARNESS.iter().map(|name| tested.join(name)));
    for program in programs {
        for library in libraries::of(&program)? {
            build::copy(&library, &folder.join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
        let copied = folder.join("bin").join(program.file_name().unwrap_or_default());
        build::copy(&program, &copied)?;
        let mut strip = Command::new("strip");
        strip.arg(&copied);
        command::capture(strip)?;
    }
    Ok(())
}

fn of_arm64(workspace: &Workspace, folder: &Path) -> Result<()> {
    let mut arguments = vec!["--package", "acceptd", "--package", "acceptd-tests"];
    arguments.extend(names().flat_map(|name| ["--bin", name]));
    let built = build::statically(workspace, &build::ARM64, build::QUICK, &arguments)?;
    for name in names() {
        build::copy(&built.join(name), &folder.join("bin").join(name))?;
    }
    Ok(())
}

fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(AGENT).chain(HARNESS)
}
