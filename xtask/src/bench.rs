//! `cargo xtask bench`: builds and runs the binary `bench` of acceptd-tests.

use std::process::Command;

use anyhow::{Result, bail};
use xtask_support::{Extent, Workspace, command, results, root};

use crate::{build, vm};

/// Runs the benchmarks. With `--full`, writes docs/results/bench.md, even if a figure misses its floor.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    root::require("bench")?;
    let mut bench = Command::new(build::suites(workspace, build::profile(extent))?.join("bench"));
    bench.arg(extent.flag()).current_dir(workspace.root());
    let (succeeded, mut figures) = command::figures(bench)?;
    if extent.full {
        for line in vm::costs(workspace)? {
            println!("{line}");
            figures.push_str(&line);
            figures.push('\n');
        }
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
        let facts = [("CPUs", cpus.to_string())];
        results::write(workspace, "bench", "What acceptd costs", &facts, &figures)?;
    } else {
        println!("cost of tier 1: by --full, in a virtual machine");
    }
    if !succeeded {
        bail!("the bench failed, see above");
    }
    Ok(())
}
