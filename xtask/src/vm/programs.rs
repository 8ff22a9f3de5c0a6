//! The static programs that run in a guest.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::matrix::Arch;
use crate::workspace::Workspace;
use crate::{apt, command, setup};

/// The agent, the scenarios, the program that they start, and the one that measures.
pub(super) const NAMES: [&str; 4] = ["acceptd", "scenarios", "acceptor", "cost"];

const ARM64_COMPILER: &str = "aarch64-linux-gnu-gcc";

/// Builds them for an architecture; the folder that they are in.
pub(super) fn build(workspace: &Workspace, arch: Arch) -> Result<PathBuf> {
    setup::run(workspace)?;
    match arch {
        Arch::X86_64 => apt::require("musl-gcc", "--version", "musl-tools")?,
        Arch::Arm64 => {
            apt::require(ARM64_COMPILER, "--version", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")?;
        }
    }
    let target = arch.target();
    add_target(workspace, target)?;
    eprintln!("building the programs for {target} (the first time takes some four minutes)");
    let started = Instant::now();
    let mut build =
        command::cargo(workspace, &["build", "--profile", "guest", "--locked", "--target", target]);
    build.args(["--package", "acceptd", "--package", "acceptd-tests"]);
    build.args(NAMES.iter().flat_map(|name| ["--bin", name]));
    // Rust's own linker. The C parts of zstd and ring want a compiler of the architecture; they use nothing of its C library
    // that musl has not, but for what the compiler's own hardening would add.
    build.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    build.env("CC_aarch64_unknown_linux_musl", ARM64_COMPILER);
    build.env("CFLAGS_aarch64_unknown_linux_musl", "-U_FORTIFY_SOURCE -fno-stack-protector");
    command::run(build)?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    Ok(workspace.target().join(target).join("guest"))
}

fn add_target(workspace: &Workspace, target: &str) -> Result<()> {
    let toolchain = setup::pinned_toolchain(workspace, "rust-toolchain.toml")?;
    let mut ask = Command::new("rustup");
    ask.args(["target", "list", "--installed", "--toolchain", &toolchain]);
    if command::capture(ask)?.lines().any(|installed| installed == target) {
        return Ok(());
    }
    eprintln!("installing the standard library of {target}, about ten seconds");
    let mut add = Command::new("rustup");
    add.args(["target", "add", "--toolchain", &toolchain, target]);
    command::run(add).with_context(|| format!("rustup could not install {target}"))
}
