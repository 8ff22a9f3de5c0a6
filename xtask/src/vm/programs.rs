//! The programs of a guest: the agent, the scenarios, the program that they start, and the one that measures
//! costs.
//!
//! For the host's architecture they are those that other suites and the tests use, with their shared
//! libraries. For arm64 they are static and built for the guests only.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use xtask_support::{Workspace, command, files, libraries::copy_libraries};

use super::matrix::Arch;
use crate::{apt, build};

const AGENT: &str = "acceptd";
const HARNESS: [&str; 3] = ["scenarios", "acceptor", "cost"];

/// Debian's servers that scenarios start: name, argument, package, and path on the host.
const SERVERS: [(&str, &str, &str, &str); 2] = [
    ("nginx", "-v", "nginx", "/usr/sbin/nginx"),
    ("redis-server", "--version", "redis-server", "/usr/bin/redis-server"),
];

/// Collects the programs for an architecture. `suites` is the folder of the suites' programs for this host.
/// Returns a folder that has the programs at the paths that they have in the guest.
pub(super) fn build(workspace: &Workspace, arch: Arch, suites: &Path) -> Result<PathBuf> {
    let folder = workspace.path("target/vm/programs").join(arch.name());
    // An earlier run may have left the folder.
    _ = std::fs::remove_dir_all(&folder);
    match arch {
        Arch::X86_64 => build_native(workspace, suites, &folder)?,
        Arch::Arm64 => build_arm64(workspace, &folder)?,
    }
    Ok(folder)
}

/// The agent is that of the suites. The harness is that of the tests: in the profile `dev` a scenario that
/// panics does not end the others.
fn build_native(workspace: &Workspace, suites: &Path, folder: &Path) -> Result<()> {
    apt::require("strip", "--version", "binutils")?;
    // Not `cargo build`: tests ask for more features of some dependencies, which would be built once more.
    command::run(command::cargo(workspace, &["test", "--workspace", "--no-run", "--locked", "--quiet"]))?;
    let tested = workspace.target().join("debug");
    let programs = std::iter::once(suites.join(AGENT)).chain(HARNESS.iter().map(|name| tested.join(name)));
    for (program, argument, package, path) in SERVERS {
        apt::require(program, argument, package)?;
        copy_libraries(Path::new(path), folder)?;
        files::copy(Path::new(path), &folder.join("bin").join(program))?;
    }
    for program in programs {
        copy_libraries(&program, folder)?;
        let copied = folder.join("bin").join(program.file_name().unwrap_or_default());
        files::copy(&program, &copied)?;
        let mut strip = Command::new("strip");
        strip.arg(&copied);
        command::capture(strip)?;
    }
    Ok(())
}

fn build_arm64(workspace: &Workspace, folder: &Path) -> Result<()> {
    let names = || std::iter::once(AGENT).chain(HARNESS);
    let mut arguments = vec!["--package", "acceptd", "--package", "acceptd-tests"];
    arguments.extend(names().flat_map(|name| ["--bin", name]));
    let built = build::statically(workspace, &build::ARM64, build::QUICK, &arguments)?;
    for name in names() {
        files::copy(&built.join(name), &folder.join("bin").join(name))?;
    }
    Ok(())
}
