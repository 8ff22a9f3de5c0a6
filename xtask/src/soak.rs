//! `cargo xtask soak`: builds and runs the binary `soak` of acceptd-tests, with a real Collector.

use std::process::Command;

use anyhow::{Result, bail};
use xtask_support::{Extent, External, Workspace, command, results, root};

use crate::{build, externals};

/// Runs the suite. With `--full`, writes docs/results/soak.md.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    root::require("soak")?;
    let collector = externals::build_one(workspace, External::Collector)?;
    let mut soak = Command::new(build::suites(workspace, build::profile(extent))?.join("soak"));
    soak.arg(extent.flag()).arg("--collector").arg(collector).current_dir(workspace.root());
    let (succeeded, figures) = command::figures(soak)?;
    if !succeeded {
        bail!("the soak failed, see above");
    }
    if extent.full {
        results::write(workspace, "soak", "What acceptd does not lose", &[], &figures)?;
    }
    Ok(())
}
