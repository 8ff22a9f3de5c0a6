//! Paths in the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The checkout that xtask was started from.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the root from `CARGO_MANIFEST_DIR`, which `cargo run` sets to xtask's folder. `env!` would
    /// compile one machine's path in.
    ///
    /// # Errors
    /// When xtask was not started by cargo.
    pub fn from_manifest_dir() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .context("CARGO_MANIFEST_DIR is not set: start xtask as `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask's own folder has no parent")?.to_path_buf();
        Ok(Self { root })
    }

    /// Takes the working directory as the root: xtask starts the suites there.
    ///
    /// # Errors
    /// When the working directory is not the root of a checkout.
    pub fn from_working_directory() -> Result<Self> {
        let root = std::env::current_dir().context("there is no working directory")?;
        ensure!(
            root.join("otel-config/registry").is_dir(),
            "{} is not the root of the checkout: start the suites by `cargo xtask`",
            root.display()
        );
        Ok(Self { root })
    }

    /// The checkout's top folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the checkout.
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Cargo's target folder: `CARGO_TARGET_DIR`, else `target/`.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.path("target"), |set| self.root.join(set))
    }

    /// The folder of pinned tools. It is inside the checkout, so that installing them changes nothing else.
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.path("target/tools")
    }

    /// The path of a pinned tool, whether or not it is installed.
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        self.tools().join("bin").join(name)
    }
}
