//! `cargo xtask build`: the agent's binary. collector-bridge/build.rs finds the tools of `setup` by itself.
//! `cargo xtask dist`: static programs, which images are made of.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{apt, command, setup, workspace::Workspace};

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
    let packages = ["--package", "acceptd", "--package", "acceptd-tests", "--package", "acceptd-workload"];
    let programs = ["--bin", "acceptd", "--bin", "bench", "--bin", "soak", "--bin", "workload"];
    build(
        workspace,
        profile,
        "acceptd, bench, soak and workload",
        &[packages.as_slice(), &programs].concat(),
    )?;
    Ok(workspace.target().join(profile))
}

/// A target whose programs need nothing of the system that they run on.
pub(crate) struct Static {
    /// As Docker calls the architecture.
    pub(crate) architecture: &'static str,
    triple: &'static str,
    /// For the C parts of zstd and ring.
    compiler: &'static str,
    /// Debian's, with that compiler.
    packages: &'static str,
}

pub(crate) const X86_64: Static = Static {
    architecture: "amd64",
    triple: "x86_64-unknown-linux-musl",
    compiler: "x86_64-linux-gnu-gcc",
    packages: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
};
pub(crate) const ARM64: Static = Static {
    architecture: "arm64",
    triple: "aarch64-unknown-linux-musl",
    compiler: "aarch64-linux-gnu-gcc",
    packages: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
};

/// Builds what `arguments` names for such a target, and returns the folder that it is in.
pub(crate) fn statically(
    workspace: &Workspace,
    target: &Static,
    profile: &str,
    arguments: &[&str],
) -> Result<PathBuf> {
    let Static { triple, compiler, packages, .. } = target;
    apt::require(compiler, "--version", packages)?;
    add_target(workspace, triple)?;
    setup::run(workspace)?;
    eprintln!("building for {triple} (profile {profile}; the first time takes some four minutes)");
    let started = Instant::now();
    let mut make =
        command::cargo(workspace, &["build", "--profile", profile, "--locked", "--target", triple]);
    make.args(arguments);
    // Rust's own linker. The C parts use nothing of their C library that musl has not, but for what the compiler's own hardening
    // would add.
    let name = triple.replace('-', "_");
    make.env(format!("CARGO_TARGET_{}_LINKER", name.to_ascii_uppercase()), "rust-lld");
    make.env(format!("CC_{name}"), compiler);
    make.env(format!("CFLAGS_{name}"), "-U_FORTIFY_SOURCE -fno-stack-protector");
    command::run(make)?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    Ok(workspace.target().join(triple).join(profile))
}

/// That of this host.
pub(crate) fn this() -> Result<Static> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(X86_64),
        "aarch64" => Ok(ARM64),
        other => bail!("acceptd runs on x86_64 and aarch64, not on {other}"),
    }
}

/// Static programs of this host's architecture, and with `all` of the others, in `target/image/ARCHITECTURE`.
pub(crate) fn dist(workspace: &Workspace, profile: &str, all: bool) -> Result<()> {
    let this = this()?;
    for target in [X86_64, ARM64].iter().filter(|target| all || target.triple == this.triple) {
        let packages = [
            "--package",
            "acceptd",
            "--package",
            "acceptd-workload",
            "--bin",
            "acceptd",
            "--bin",
            "workload",
        ];
        let built = statically(workspace, target, profile, &packages)?;
        let folder = workspace.path("target/image").join(target.architecture);
        for program in ["acceptd", "workload"] {
            copy(&built.join(program), &folder.join(program))?;
        }
        println!("built {}", folder.display());
    }
    Ok(())
}

/// Copies a file, into a folder that need not be there yet.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    std::fs::copy(from, to).with_context(|| format!("copying {}", from.display())).map(drop)
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
