//! One test program: how to start it, and how to read its outcomes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::outcomes::Outcomes;
use crate::{e2e::sandbox::Sandbox, process::Running};

/// A test program of another project.
pub(super) struct TestProgram {
    pub(super) name: &'static str,
    pub(super) binary: PathBuf,
    /// The working directory.
    pub(super) home: PathBuf,
    /// Adds the arguments. The second argument is the path, without an extension, of the files of a run.
    pub(super) arguments: fn(&mut Command, &Path),
    /// Reads the outcomes of a run from its files.
    pub(super) outcomes: fn(&Path) -> Result<Outcomes>,
}

impl TestProgram {
    /// Starts the program in a sandbox. Its files in `folder` begin with `name`.
    pub(super) fn start(&self, sandbox: &Sandbox, folder: &Path, name: &str) -> Result<Running> {
        let files = folder.join(name);
        // The command changes its working directory after it has entered the mount namespace.
        let mut shell = sandbox.command("sh");
        shell.args(["-c", "cd \"$0\" && exec \"$@\""]).arg(&self.home).arg(&self.binary);
        (self.arguments)(&mut shell, &files);
        Running::start(self.name, shell, &files.with_extension("out"), &files.with_extension("err"))
    }
}
