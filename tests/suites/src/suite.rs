//! The surroundings of a suite: the checkout, this workspace's programs, and the external programs that xtask
//! built.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use xtask_support::{External, Externals, Workspace};

/// The surroundings of a suite.
pub(crate) struct Suite {
    pub(crate) workspace: Workspace,
    /// The folder of this workspace's programs.
    programs: PathBuf,
    externals: Externals,
}

impl Suite {
    /// Reads `--programs` and `--external`. The working directory must be the root of the checkout.
    pub(crate) fn new(programs: PathBuf, externals: &[OsString]) -> Result<Self> {
        Ok(Self {
            workspace: Workspace::from_working_directory()?,
            programs,
            externals: Externals::parse(externals)?,
        })
    }

    /// The path of a program of this workspace: `acceptd` or `workload`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The folder of this workspace's programs.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// The path of an external program. Fails if xtask did not pass it.
    pub(crate) fn external(&self, external: External) -> Result<&Path> {
        self.externals.path(external)
    }

    /// A path inside the checkout.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.workspace.path(relative)
    }

    /// A Collector configuration of otel-config.
    pub(crate) fn collector_config(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.path("otel-config").join(name))
            .with_context(|| format!("reading otel-config/{name}"))
    }
}
