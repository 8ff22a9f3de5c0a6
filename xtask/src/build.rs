//! `cargo xtask build` and `dist`, and the one build that all suites share. collector-bridge/build.rs finds
//! the tools that `setup` installs.

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use xtask_support::{Extent, Workspace, command, files};

use crate::{apt, setup};

/// The profile of what is shipped.
pub(crate) const RELEASE: &str = "release";

/// A profile that builds in half the time of [`RELEASE`]; the programs are almost as fast.
pub(crate) const QUICK: &str = "quick";

/// The packages and programs of all suites, for one cargo invocation.
const SUITES: [&str; 20] = [
    "--package",
    "acceptd",
    "--package",
    "acceptd-suites",
    "--package",
    "acceptd-tests",
    "--package",
    "acceptd-workload",
    "--bin",
    "acceptd",
    "--bin",
    "acceptor",
    "--bin",
    "bench",
    "--bin",
    "soak",
    "--bin",
    "suites",
    "--bin",
    "workload",
];

/// The profile for a suite: committed figures are those of what is shipped.
pub(crate) fn profile(extent: Extent) -> &'static str {
    if extent.full { RELEASE } else { QUICK }
}

/// Sets up what is missing, builds `acceptd` in the release profile and returns its path.
pub(crate) fn release(workspace: &Workspace) -> Result<PathBuf> {
    build(workspace, RELEASE, "acceptd", &["--package", "acceptd"])?;
    Ok(workspace.target().join("release/acceptd"))
}

/// Builds the agent with the programs of all suites, and returns their folder.
///
/// All suites use this one set of packages. With another set, the dependencies would have other features, and
/// cargo would compile them again, for minutes.
pub(crate) fn suites(workspace: &Workspace, profile: &str) -> Result<PathBuf> {
    build(workspace, profile, "acceptd, acceptor, bench, soak, suites and workload", &SUITES)?;
    Ok(workspace.target().join(profile))
}

/// A target whose programs are linked statically, so that they run on any Linux.
pub(crate) struct StaticTarget {
    /// Docker's name of the architecture.
    pub(crate) architecture: &'static str,
    triple: &'static str,
    /// The compiler for the C code of zstd and ring.
    compiler: &'static str,
    /// The Debian packages with that compiler.
    packages: &'static str,
}

pub(crate) const X86_64: StaticTarget = StaticTarget {
    architecture: "amd64",
    triple: "x86_64-unknown-linux-musl",
    compiler: "x86_64-linux-gnu-gcc",
    packages: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
};
pub(crate) const ARM64: StaticTarget = StaticTarget {
    architecture: "arm64",
    triple: "aarch64-unknown-linux-musl",
    compiler: "aarch64-linux-gnu-gcc",
    packages: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
};

/// Builds what `arguments` name for a static target, and returns the folder of the programs.
pub(crate) fn statically(
    workspace: &Workspace,
    target: &StaticTarget,
    profile: &str,
    arguments: &[&str],
) -> Result<PathBuf> {
    let StaticTarget { triple, compiler, packages, .. } = target;
    apt::require(compiler, "--version", packages)?;
    add_target(workspace, triple)?;
    setup::run(workspace)?;
    eprintln!("building for {triple} (profile {profile}; the first time takes some four minutes)");
    let started = Instant::now();
    let mut make =
        command::cargo(workspace, &["build", "--profile", profile, "--locked", "--target", triple]);
    make.args(arguments);
    // Linked by Rust's own lld with musl, although the C code is compiled by a compiler for glibc. That works
    // as long as the C code calls only functions that musl has; the flags switch the compiler's hardening
    // off, which would add calls of others.
    let name = triple.replace('-', "_");
    make.env(format!("CARGO_TARGET_{}_LINKER", name.to_ascii_uppercase()), "rust-lld");
    make.env(format!("CC_{name}"), compiler);
    make.env(format!("CFLAGS_{name}"), "-U_FORTIFY_SOURCE -fno-stack-protector");
    command::run(make)?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    Ok(workspace.target().join(triple).join(profile))
}

/// The static target with the architecture of this host.
fn host_target() -> Result<StaticTarget> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(X86_64),
        "aarch64" => Ok(ARM64),
        other => bail!("acceptd runs on x86_64 and aarch64, not on {other}"),
    }
}

/// Builds static programs into `target/image/ARCHITECTURE`: for this host's architecture, with `all` for the
/// others, too.
pub(crate) fn dist(workspace: &Workspace, profile: &str, all: bool) -> Result<()> {
    let host = host_target()?;
    for target in [X86_64, ARM64].iter().filter(|target| all || target.triple == host.triple) {
        let arguments = ["acceptd", "acceptd-workload"].map(|package| ["--package", package]);
        let programs = ["acceptd", "workload"];
        let bins = programs.map(|program| ["--bin", program]);
        let built = statically(workspace, target, profile, &[arguments, bins].concat().concat())?;
        let folder = workspace.path("target/image").join(target.architecture);
        for program in programs {
            files::copy(&built.join(program), &folder.join(program))?;
        }
        println!("built {}", folder.display());
    }
    Ok(())
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
