//! Copying files.

use std::path::Path;

use anyhow::{Context, Result};

/// Copies a file, and creates the target's folder if needed.
///
/// # Errors
/// The file system's, with the path.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    std::fs::copy(from, to).with_context(|| format!("copying {}", from.display())).map(drop)
}
