//! `cargo xtask codegen`: the registry becomes the names that the code uses and the reference that people read.

mod names;
mod reference;
mod registry;
mod rules;
mod semconv;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use registry::Registry;

const NAMES: &str = "collector-bridge/otlp/src/names.rs";
const REFERENCE: &str = "docs/attributes.md";

/// Writes both files, or with `check` fails when one differs from what the registry says.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<()> {
    let registry = Registry::read(&workspace.path("otel-config/registry"))?;
    rules::check(&registry)?;
    for (file, text) in [(NAMES, names::render(&registry)), (REFERENCE, reference::render(&registry))] {
        let path = workspace.path(file);
        if check {
            compare(&path, file, &text)?;
        } else {
            std::fs::write(&path, text).with_context(|| format!("writing {file}"))?;
            println!("wrote {file}");
        }
    }
    Ok(())
}

fn compare(path: &Path, file: &str, wanted: &str) -> Result<()> {
    let found = std::fs::read_to_string(path).with_context(|| format!("reading {file}"))?;
    if found == wanted {
        return Ok(());
    }
    let differs = found.lines().zip(wanted.lines()).take_while(|(a, b)| a == b).count() + 1;
    bail!("{file} differs from otel-config/registry at line {differs}: run `cargo xtask codegen`");
}
