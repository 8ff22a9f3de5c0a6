//! `cargo xtask bench`: builds and runs the binary `bench` of acceptd-tests.

use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{Extent, build, command, host};

/// Runs the benchmarks; the binary prints ratios and writes its own results.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    host::require_root("bench")?;
    build::packages(workspace, &["acceptd", "acceptd-tests"])?;
    let mut bench = Command::new(workspace.target().join("release/bench"));
    bench.arg(if extent.full { "--full" } else { "--quick" });
    bench.current_dir(workspace.root());
    command::run(bench)
}
