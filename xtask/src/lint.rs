//! Format, lints, and the licences and sources of dependencies: the steps of CI that run before anything is
//! tested.

use std::process::Command;

use anyhow::Result;
use xtask_support::{Workspace, command};

use crate::setup::{self, Tool, install_tool, nightly_cargo, toolchain};

const CARGO_DENY: Tool<'_> = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    toolchain: None,
    optimized: false,
    takes: "two to three minutes",
};

/// The folders with a workspace of their own, which the pinned nightly builds.
const NIGHTLY_CRATES: [&str; 2] = ["ebpf", "fuzz"];

/// Checks the format of every crate. The pinned nightly does it, since the import style in rustfmt.toml is
/// not stable.
pub(crate) fn format(workspace: &Workspace) -> Result<()> {
    for folder in [""].into_iter().chain(NIGHTLY_CRATES) {
        command::run(nightly_cargo(workspace, folder, &["fmt", "--all", "--check"])?)?;
    }
    Ok(())
}

/// Lints every crate: the workspace for the host, the eBPF programs for the BPF target, and the fuzz targets.
pub(crate) fn clippy(workspace: &Workspace) -> Result<()> {
    let stable = setup::pinned_toolchain(workspace, "rust-toolchain.toml")?;
    toolchain(&stable, &["rustfmt", "clippy"])?;
    let deny = ["--", "--deny", "warnings"];
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked"];
    command::run(command::cargo(workspace, &[arguments.as_slice(), &deny].concat()))?;
    for folder in NIGHTLY_CRATES {
        let mut clippy = nightly_cargo(
            workspace,
            folder,
            &[["clippy", "--release", "--locked"].as_slice(), &deny].concat(),
        )?;
        clippy.env("CARGO_TARGET_DIR", workspace.path("target").join(folder));
        command::run(clippy)?;
    }
    Ok(())
}

/// Checks bans, licences and sources. The advisory database cannot be reached from every CI.
pub(crate) fn deny(workspace: &Workspace) -> Result<()> {
    install_tool(workspace, &CARGO_DENY)?;
    println!("checking bans, licenses and sources; advisories are not checked here");
    let mut deny = Command::new(workspace.tool("cargo-deny"));
    deny.args(["--workspace", "check", "bans", "licenses", "sources"]).current_dir(workspace.root());
    command::run(deny)
}
