//! `cargo xtask bench`: builds and runs the binary `bench` of acceptd-tests.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{Extent, build, command, host, results, vm, workspace::Workspace};

/// Runs the benchmarks; with `--full` writes docs/results/bench.md, also when a figure misses its floor.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    host::require_root("bench")?;
    let mut bench = Command::new(build::suites(workspace, extent.profile())?.join("bench"));
    bench.arg(if extent.full { "--full" } else { "--quick" }).current_dir(workspace.root());
    let (good, mut figures) = command::figures(bench)?;
    if extent.full {
        for line in vm::costs(workspace)? {
            println!("{line}");
            figures.push_str(&line);
            figures.push('\n');
        }
        let machine = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
        let facts = [("CPUs", machine.to_string())];
        results::write(workspace, "bench", "What acceptd costs", &facts, &figures)?;
    }
    if !extent.full {
        println!("cost of tier 1: by --full, in a virtual machine");
    }
    if !good {
        bail!("the bench failed, see above");
    }
    Ok(())
}
