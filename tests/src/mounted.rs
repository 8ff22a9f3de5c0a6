//! File systems that a test mounts for itself, so that results do not depend on the host's mounts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tempfile::TempDir;

use crate::agent::binary;

/// A file system that is mounted below a temporary folder, and unmounted on drop.
#[derive(Debug)]
pub struct ScratchMount {
    root: TempDir,
    path: PathBuf,
}

impl ScratchMount {
    /// Mounts a file system of type `kind` at the relative path `inside` of a new temporary folder.
    ///
    /// # Panics
    /// If it cannot be mounted.
    #[must_use]
    pub fn new(kind: &str, inside: &str) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let path = root.path().join(inside);
        fs::create_dir_all(&path).expect("a new folder");
        let mounted = Command::new("mount").args(["-t", kind, "none"]).arg(&path).status();
        assert!(mounted.is_ok_and(|status| status.success()), "{kind} cannot be mounted");
        Self { root, path }
    }

    /// The mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchMount {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(&self.path).status();
    }
}

/// A cgroup (v2) in a hierarchy mounted below a temporary root, which an agent uses as `host.root`.
#[derive(Debug)]
pub struct Cgroup {
    mounted: Arc<ScratchMount>,
    path: PathBuf,
}

impl Cgroup {
    /// Creates the cgroup `/name`.
    ///
    /// # Panics
    /// If it cannot be created.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mounted = Arc::new(ScratchMount::new("cgroup2", "sys/fs/cgroup"));
        let path = mounted.path().join(name);
        fs::create_dir(&path).expect("a new cgroup");
        Self { mounted, path }
    }

    /// Creates a cgroup inside of this one.
    ///
    /// # Panics
    /// If it cannot be created.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let path = self.path.join(name);
        fs::create_dir(&path).expect("a new cgroup");
        Self { mounted: Arc::clone(&self.mounted), path }
    }

    /// The path of the cgroup in its hierarchy.
    ///
    /// # Panics
    /// Never: the cgroup is inside of its mount.
    #[must_use]
    pub fn v2_path(&self) -> String {
        let inside = self.path.strip_prefix(self.mounted.path()).expect("inside of the mount");
        format!("/{}", inside.display())
    }

    /// The argument for the agent's `--set` that makes it read cgroups from here.
    #[must_use]
    pub fn host_root_setting(&self) -> String {
        format!("host.root={}", self.mounted.root.path().display())
    }

    /// Moves a process into the cgroup.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn move_process(&self, pid: i32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("cgroup.procs is writable");
    }

    /// A shell that moves itself into the cgroup and then executes `acceptor 1`.
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

impl Drop for Cgroup {
    fn drop(&mut self) {
        _ = fs::remove_dir(&self.path);
    }
}
