//! termtosvg, a Python package that records a terminal session as an SVG.

use std::{path::PathBuf, process::Command};

use anyhow::Result;
use xtask_support::{Workspace, command};

use crate::apt;

/// termtosvg imports `pkg_resources`, which newer versions of setuptools no longer have.
const PACKAGES: [&str; 2] = ["termtosvg==1.1.0", "setuptools==79.0.1"];

/// Installs termtosvg into a folder of its own, unless it is there; returns the folder.
pub(crate) fn install(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target().join("tools/termtosvg");
    if !folder.join("bin/termtosvg").exists() {
        apt::require("pip3", "--version", "python3-pip")?;
        let mut pip = Command::new("pip3");
        pip.args(["install", "--quiet", "--root-user-action=ignore", "--target"]).arg(&folder).args(PACKAGES);
        command::run(pip)?;
    }
    Ok(folder)
}
