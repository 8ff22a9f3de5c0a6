//! `cargo xtask codegen`: generates the names that the code uses, the reference for users, and the index
//! templates of Elasticsearch from otel-config/registry.

mod mapping;
mod names;
mod reference;
mod registry;
mod rules;
mod semconv;

use std::path::Path;

use anyhow::{Context, Result, bail};
use registry::Registry;
use xtask_support::Workspace;

const NAMES: &str = "collector-bridge/otlp/src/names.rs";
const REFERENCE: &str = "docs/attributes.md";

/// Writes the files that differ from what the registry gives. With `check`, writes nothing, and fails if one
/// differs.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<()> {
    let registry = Registry::read(&workspace.path("otel-config/registry"))?;
    rules::check(&registry)?;
    let all = [(NAMES, names::render(&registry)), (REFERENCE, reference::render(&registry))];
    for (file, text) in all.into_iter().chain(mapping::render(&registry)) {
        let path = workspace.path(file);
        if check {
            compare(&path, file, &text)?;
        } else if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
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
