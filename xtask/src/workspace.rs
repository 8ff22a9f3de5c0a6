//! Where things are in the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout that xtask was started from.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the root from the variable that `cargo run` sets, so that no machine's path is compiled in.
    pub(crate) fn locate() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .context("CARGO_MANIFEST_DIR is not set: start xtask as `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask's own folder has no parent")?.to_path_buf();
        Ok(Self { root })
    }

    /// The checkout's top folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the checkout.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Cargo's target folder: `CARGO_TARGET_DIR`, else `target/`.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.path("target"), |set| self.root.join(set))
    }

    /// Where pinned tools are installed; nothing outside the checkout is changed for them.
    pub(crate) fn tools(&self) -> PathBuf {
        self.path("target/tools")
    }

    /// An installed tool, whether it is there yet or not.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.tools().join("bin").join(name)
    }
}
