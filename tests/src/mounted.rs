//! File systems that a test mounts for itself, so that the host's own mounts do not matter.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::agent::binary;

/// A file system, mounted as long as this lives.
#[derive(Debug)]
pub struct Mounted {
    root: TempDir,
    at: PathBuf,
}

impl Mounted {
    /// One of `kind`, at the path `inside` a root of its own.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn new(kind: &str, inside: &str) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let at = root.path().join(inside);
        fs::create_dir_all(&at).expect("a new folder");
        let mounted = Command::new("mount").args(["-t", kind, "none"]).arg(&at).status();
        assert!(mounted.is_ok_and(|status| status.success()), "{kind} cannot be mounted");
        Self { root, at }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(&self.at).status();
    }
}

/// A cgroup of version 2, under a root of its own.
#[derive(Debug)]
pub struct Group {
    mounted: Mounted,
    path: PathBuf,
}

impl Group {
    /// A new one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mounted = Mounted::new("cgroup2", "sys/fs/cgroup");
        let path = mounted.path().join(name);
        fs::create_dir(&path).expect("a new cgroup");
        Self { mounted, path }
    }

    /// What tells an agent where it is.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("host.root={}", self.mounted.root.path().display())
    }

    /// Moves a process there.
    ///
    /// # Panics
    /// When it cannot.
    pub fn take(&self, pid: i32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("root may move it");
    }

    /// A shell that moves itself there, and becomes the acceptor.
    #[must_use]
    pub fn acceptor(&self) -> Command {
        let mut command = Command::new("sh");
        let program = binary("acceptor");
        let script =
            format!("echo $$ > {}/cgroup.procs && exec {} 1", self.path.display(), program.display());
        command.args(["-c", &script]);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        _ = fs::remove_dir(&self.path);
    }
}
