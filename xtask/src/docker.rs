//! An engine of Docker's that is ours alone.

mod firewall;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{
        capture, {self},
    },
    process::{Running, until},
};

/// Where the host's own listens.
const OTHER: &str = "/var/run/docker.sock";

const READY: Duration = Duration::from_secs(30);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(30);

/// It runs, with nothing of the host's own engine.
///
/// Dropped, it ends as the fields do, in their order; [`Engine::stop`] says what went wrong with that.
pub(crate) struct Engine {
    containers: Containers,
    process: Running,
    firewall: Option<firewall::Kept>,
}

/// Those of the engine that listens here. Dropped, they are gone.
struct Containers {
    socket: PathBuf,
}

impl Engine {
    /// With a network of its own for containers only when they ask for one: `network`.
    ///
    /// Networks are rules of the host's firewall, so another engine must not run then.
    pub(crate) fn start(folder: &Path, network: bool) -> Result<Self> {
        if network && Path::new(OTHER).exists() {
            bail!(
                "{OTHER} is another engine's, whose rules of the firewall this one would remove: stop it first"
            );
        }
        std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        let socket = folder.join("docker.sock");
        // With mounts that are shared, as systemd has them, and gone with it.
        let mut dockerd = Command::new("unshare");
        dockerd.args(["--mount", "--propagation", "shared", "dockerd"]);
        dockerd.arg("--data-root").arg(folder.join("data")).arg("--exec-root").arg(folder.join("exec"));
        dockerd.arg("--pidfile").arg(folder.join("docker.pid"));
        dockerd.arg("--host").arg(format!("unix://{}", socket.display()));
        // Its files have no other file system beneath them.
        dockerd.arg("--storage-driver=vfs");
        dockerd.arg("--bridge=none");
        if !network {
            // It is to change nothing on the host's network.
            dockerd.arg("--iptables=false");
        }
        let firewall = if network { Some(firewall::Kept::read()?) } else { None };
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

    /// Its client.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Command {
        self.containers.docker(arguments)
    }

    /// What `DOCKER_HOST` is for it.
    pub(crate) fn host(&self) -> String {
        self.containers.host()
    }

    /// Makes an image of a folder's files.
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

    /// Ends it and its containers, and puts the host's firewall back.
    pub(crate) fn stop(self) -> Result<()> {
        let Self { containers, process, firewall } = self;
        let removed = containers.remove();
        // What is left of them is tried once more, before the engine ends.
        drop(containers);
        let ended = process.stop(STOP);
        let restored = firewall.map_or(Ok(()), firewall::Kept::restore);
        removed.and(ended.map(drop)).and(restored)
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
        // Without an engine that answers there is nobody to remove them.
        if let Err(error) = self.remove() {
            eprintln!("containers may be left: {error:#}");
        }
    }
}
