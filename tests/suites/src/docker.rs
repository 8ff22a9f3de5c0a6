//! A Docker engine of the suite's own, apart from the host's.

mod firewall;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use xtask_support::command::{self, capture};

use crate::process::{Running, until};

/// The socket of the host's own engine.
const HOST_ENGINE: &str = "/var/run/docker.sock";

const READY: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(30);

/// A running engine, which shares no data with the host's own.
///
/// Dropping it drops the fields in their order: containers, the process, the firewall rules. [`Engine::stop`]
/// does the same and returns errors.
pub(crate) struct Engine {
    containers: Containers,
    process: Running,
    firewall: Option<firewall::SavedFirewall>,
}

/// The containers of the engine that listens on `socket`. Dropping the value removes them.
struct Containers {
    socket: PathBuf,
}

impl Engine {
    /// Starts the engine and waits until it answers. With `network`, containers can have networks of their
    /// own.
    ///
    /// Docker implements networks by rules in the host's firewall, so no other engine may run then.
    pub(crate) fn start(folder: &Path, network: bool) -> Result<Self> {
        if network && Path::new(HOST_ENGINE).exists() {
            bail!(
                "{HOST_ENGINE} is another engine's, whose firewall rules this one would remove: stop it first"
            );
        }
        std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        let socket = folder.join("docker.sock");
        // A mount namespace whose mounts are shared, as systemd configures the host's, and which ends with
        // the engine.
        let mut dockerd = Command::new("unshare");
        dockerd.args(["--mount", "--propagation", "shared", "dockerd"]);
        dockerd.arg("--data-root").arg(folder.join("data")).arg("--exec-root").arg(folder.join("exec"));
        dockerd.arg("--pidfile").arg(folder.join("docker.pid"));
        dockerd.arg("--host").arg(format!("unix://{}", socket.display()));
        // vfs works on every file system below the data folder, unlike overlay2.
        dockerd.arg("--storage-driver=vfs");
        dockerd.arg("--bridge=none");
        if !network {
            // The engine must not change the host's network.
            dockerd.arg("--iptables=false");
        }
        let firewall = if network { Some(firewall::SavedFirewall::save()?) } else { None };
        let process =
            Running::start("dockerd", dockerd, &folder.join("dockerd.out"), &folder.join("dockerd.err"))?;
        let mut engine = Self { containers: Containers { socket }, process, firewall };
        until("Docker's engine", READY, || {
            engine.process.require_alive()?;
            let mut info = engine.docker(&["info"]);
            let status = info.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            Ok(status.success().then_some(()))
        })?;
        Ok(engine)
    }

    /// A command of Docker's client for this engine.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Command {
        self.containers.docker(arguments)
    }

    /// The value of `DOCKER_HOST` for this engine.
    pub(crate) fn host(&self) -> String {
        self.containers.host()
    }

    /// Imports the files of a folder as an image.
    pub(crate) fn import(&self, folder: &Path, changes: &[String], name: &str) -> Result<()> {
        let archive = folder.with_extension("tar");
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(folder).arg(".");
        command::run(tar)?;
        let mut import = self.docker(&["import"]);
        import.args(changes.iter().flat_map(|change| ["--change", change])).arg(&archive).arg(name);
        capture(import)?;
        std::fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))
    }

    /// Removes the containers, stops the engine, and restores the host's firewall.
    pub(crate) fn stop(self) -> Result<()> {
        let Self { containers, process, firewall } = self;
        let removed = containers.remove();
        // Dropping tries once more to remove containers, while the engine still runs.
        drop(containers);
        let stopped = process.stop(STOP);
        let restored = firewall.map_or(Ok(()), firewall::SavedFirewall::restore);
        removed.and(stopped.map(drop)).and(restored)
    }
}

impl Containers {
    fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.arg("--host").arg(self.host()).args(arguments);
        docker
    }

    fn remove(&self) -> Result<()> {
        let running = capture(self.docker(&["ps", "--quiet", "--no-trunc"]))?;
        for id in running.lines() {
            capture(self.docker(&["rm", "--force", id]))?;
        }
        Ok(())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // This fails if the engine does not answer.
        if let Err(error) = self.remove() {
            eprintln!("containers may still exist: {error:#}");
        }
    }
}
