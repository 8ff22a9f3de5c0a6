//! `cargo xtask soak`: builds and runs the binary `soak` of acceptd-tests, with the real Collector.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{Extent, build, collector, command, host, results, workspace::Workspace};

/// Runs the suite; with `--full` writes docs/results/soak.md.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    host::require_root("soak")?;
    let collector = collector::build(workspace)?;
    let mut soak = Command::new(build::suites(workspace, extent.profile())?.join("soak"));
    soak.arg(if extent.full { "--full" } else { "--quick" }).arg("--collector").arg(collector);
    soak.current_dir(workspace.root());
    let (good, figures) = command::figures(soak)?;
    if !good {
        bail!("the soak failed, see above");
    }
    if extent.full {
        results::write(workspace, "soak", "What acceptd does not lose", &[], &figures)?;
    }
    Ok(())
}
