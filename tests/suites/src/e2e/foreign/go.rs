//! Go's own tests of `net` and `net/http`, built from the source tree of the toolchain.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use xtask_support::command;

use super::{
    outcomes::{self, Outcomes},
    program::TestProgram,
};

const PACKAGES: [(&str, &str); 2] = [("Go net", "net"), ("Go net/http", "net/http")];

/// Builds the test programs into `folder`.
pub(super) fn programs(folder: &Path) -> Result<Vec<TestProgram>> {
    let mut root = Command::new("go");
    root.args(["env", "GOROOT"]);
    let sources = PathBuf::from(command::capture(root)?).join("src");
    PACKAGES.into_iter().map(|(name, package)| build(name, package, &sources, folder)).collect()
}

fn build(name: &'static str, package: &str, sources: &Path, folder: &Path) -> Result<TestProgram> {
    let binary = folder.join(format!("go-{}.test", package.replace('/', "-")));
    let mut go = Command::new("go");
    go.args(["test", "-c", "-o"]).arg(&binary).arg(package).current_dir(sources).env_remove("GOFLAGS");
    command::run(go).context("Go's own tests did not build")?;
    Ok(TestProgram {
        name,
        binary,
        home: sources.join(package),
        // Without `short`, tests would look for hosts of the Internet.
        arguments: |command, _files| {
            command.args(["-test.v=test2json", "-test.short"]);
        },
        outcomes: read,
    })
}

fn read(files: &Path) -> Result<Outcomes> {
    let path = files.with_extension("out");
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let outcomes = outcomes::of_go(&String::from_utf8_lossy(&bytes));
    ensure!(!outcomes.is_empty(), "{} has no tests", path.display());
    Ok(outcomes)
}
