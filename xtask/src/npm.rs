//! Programs that npm packages contain.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use xtask_support::command;

use crate::{apt, go};

/// A program in a package of its own for each architecture.
pub(crate) struct NpmProgram {
    name: &'static str,
    version: &'static str,
    x86_64: &'static str,
    aarch64: &'static str,
    /// The path of the program in the package.
    path: &'static str,
}

/// Bun, built for CPUs without AVX2, too.
pub(crate) const BUN: NpmProgram = NpmProgram {
    name: "bun",
    version: "1.4.4",
    x86_64: "@oven/bun-linux-x64-baseline",
    aarch64: "@oven/bun-linux-aarch64",
    path: "bin/bun",
};

pub(crate) const DENO: NpmProgram = NpmProgram {
    name: "deno",
    version: "2.9.6",
    x86_64: "@deno/linux-x64-glibc",
    aarch64: "@deno/linux-arm64-glibc",
    path: "deno",
};

/// Installs the package with npm, unless the cache has it, and returns the path of the program.
pub(crate) fn fetch(program: &NpmProgram) -> Result<PathBuf> {
    let NpmProgram { name, version, path, .. } = program;
    let package = if cfg!(target_arch = "aarch64") { program.aarch64 } else { program.x86_64 };
    let cache = go::cache()?;
    let home = cache.join(format!("{name}-{version}"));
    let binary = home.join("node_modules").join(package).join(path);
    if binary.exists() {
        return Ok(binary);
    }
    apt::require("npm", "--version", "npm")?;
    eprintln!("fetching {package} {version} into {}, some seconds", home.display());
    // npm writes into a temporary folder, which is renamed, so that an interrupted fetch leaves nothing.
    let unfinished = tempfile::tempdir_in(&cache).context("no temporary folder in the cache")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-save", "--ignore-scripts", "--prefix"]).arg(unfinished.path());
    npm.arg(format!("{package}@{version}"));
    command::run(npm)
        .with_context(|| format!("{name} could not be fetched: npm's registry must be reachable"))?;
    fs::rename(unfinished.keep(), &home).with_context(|| format!("moving {name} into the cache"))?;
    Ok(binary)
}
