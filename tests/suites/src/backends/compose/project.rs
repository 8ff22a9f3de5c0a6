//! The Compose project of docker-compose.yml in the suite's own Docker engine: runs Compose's commands, and
//! waits for their effects.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask_support::command::{self, capture};

use super::store::VICTORIALOGS;
use crate::{
    backends::{answer::Row, ask, environment::Environment},
    docker::Engine,
    process::until_after,
};

pub(super) const SHIPPED: &str = "docker-compose.yml";
pub(super) const OVERRIDE: &str = "tests/compose/override.yml";

/// The profile with Elasticsearch. The profile with `VictoriaLogs` has the name of its service.
pub(super) const ELASTIC: &str = "elastic";

/// The services that the quick suite does not run, because it does not build their programs.
const FULL_ONLY: [&str; 3] = ["jaeger", "loki", "prometheus"];

/// How long data may take to be visible to a user, by the README.
pub(super) const TWO_MINUTES: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_secs(1);

/// The Compose project.
pub(super) struct Project<'a> {
    /// A folder for temporary files.
    pub(super) folder: &'a Path,
    /// The root of the checkout.
    pub(super) root: &'a Path,
    /// The program Docker Compose.
    pub(super) compose: &'a Path,
    pub(super) engine: &'a Engine,
    pub(super) environment: Environment,
    pub(super) full: bool,
    /// The profile that is active.
    pub(super) profile: &'static str,
}

impl Project<'_> {
    /// Writes a Compose file for [`Project::compose_with`], and returns its path.
    pub(super) fn write_file(&self, text: &str) -> Result<PathBuf> {
        let file = self.folder.join("more.yml");
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// A Compose command for this project, with the active profile.
    pub(super) fn compose(&self, arguments: &[&str]) -> Command {
        self.compose_with(None, arguments)
    }

    /// [`Project::compose`] with one more file, which overrides the others.
    pub(super) fn compose_with(&self, more: Option<&Path>, arguments: &[&str]) -> Command {
        let mut compose = Command::new(self.compose);
        compose.args(["--file", SHIPPED, "--file", OVERRIDE]);
        compose.args(more.into_iter().flat_map(|file| [OsStr::new("--file"), file.as_os_str()]));
        compose.args(arguments);
        compose.current_dir(self.root).env("DOCKER_HOST", self.engine.host());
        compose.envs(self.environment.all()).env("COMPOSE_PROFILES", self.profile);
        compose
    }

    /// The services of these files after Compose has merged them, with all profiles that the suite uses.
    pub(super) fn merged_services(&self, files: &[&str]) -> Result<Value> {
        let mut compose = Command::new(self.compose);
        compose.args(files.iter().flat_map(|file| ["--file", file]));
        compose.args([ELASTIC, VICTORIALOGS.name].iter().flat_map(|profile| ["--profile", profile]));
        compose.args(["config", "--format", "json"]);
        compose.current_dir(self.root).envs(self.environment.all());
        let mut all: Value = serde_json::from_str(&capture(compose)?).context("docker compose config")?;
        Ok(all["services"].take())
    }

    /// Starts all services except `without`, and waits until each service with a health check is healthy.
    pub(super) fn start(&self, without: &[&str]) -> Result<()> {
        let output = self.compose(&["config", "--quiet"]).output().context("docker compose config")?;
        ensure!(
            output.status.success() && output.stderr.is_empty(),
            "config: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut services = self.services()?;
        services.retain(|service| !without.contains(&service.as_str()));
        self.start_services(&services)?;
        let all = self.merged_services(&[SHIPPED, OVERRIDE])?;
        for service in services.iter().filter(|service| all[service.as_str()]["healthcheck"].is_object()) {
            self.wait_until_healthy(service)?;
        }
        Ok(())
    }

    /// Starts these services, from images that exist.
    pub(super) fn start_services(&self, services: &[String]) -> Result<()> {
        let mut up = self.compose(&["up", "--detach", "--no-build", "--quiet-pull"]);
        up.args(services);
        command::run(up)
    }

    fn wait_until_healthy(&self, service: &str) -> Result<()> {
        poll(&format!("{service} to be healthy"), || {
            let id = self.container_id(service)?;
            let health =
                capture(self.engine.docker(&["inspect", "--format", "{{.State.Health.Status}}", &id]))?;
            Ok((health == "healthy").then_some(()))
        })
    }

    /// The services of the active profile that this run starts.
    fn services(&self) -> Result<Vec<String>> {
        let all = capture(self.compose(&["config", "--services"]))?;
        for name in FULL_ONLY {
            ensure!(all.lines().any(|service| service == name), "{name} is not a service of {SHIPPED}");
        }
        let runs = |service: &&str| self.full || !FULL_ONLY.contains(service);
        Ok(all.lines().filter(runs).map(str::to_owned).collect())
    }

    fn container_id(&self, service: &str) -> Result<String> {
        capture(self.compose(&["ps", "--quiet", "--no-trunc", service]))
    }

    /// The id of a service's container, by the engine, and the process id of its program, by /proc: the
    /// program is the child of the container's init.
    pub(super) fn container(&self, service: &str) -> Result<(String, String)> {
        let id = self.container_id(service)?;
        let init = capture(self.engine.docker(&["inspect", "--format", "{{.State.Pid}}", &id]))?;
        let children = format!("/proc/{init}/task/{init}/children");
        let child = std::fs::read_to_string(&children).with_context(|| format!("reading {children}"))?;
        Ok((id, child.trim().to_owned()))
    }

    /// Sends a query, and returns the first row of the answer that `is_wanted`. An error of the query is only
    /// printed, because the backend may still be starting.
    pub(super) fn row(
        &self,
        backend: &str,
        port: &str,
        query: &str,
        is_wanted: impl Fn(&Row) -> bool,
    ) -> Result<Option<Row>> {
        match ask::ask(backend, self.environment.port(port)?, query) {
            Ok(rows) => Ok(rows.into_iter().find(is_wanted)),
            Err(error) => {
                eprintln!("{backend}: {error:#}");
                Ok(None)
            }
        }
    }

    /// The ports of the clients that a server has accepted, by its log.
    pub(super) fn accepted(&self, service: &str) -> Result<Vec<String>> {
        let log = capture(self.compose(&["logs", "--no-log-prefix", service]))?;
        let peer =
            |line: &str| line.strip_prefix("accepted ")?.rsplit_once(':').map(|(_, port)| port.to_owned());
        Ok(log.lines().filter_map(peer).collect())
    }

    /// How many lines of a service's log contain `words`.
    pub(super) fn count_lines(&self, service: &str, words: &str) -> Result<usize> {
        let log = capture(self.compose(&["logs", "--no-log-prefix", service]))?;
        Ok(log.lines().filter(|line| line.contains(words)).count())
    }

    /// Waits until at least `count` lines of a service's log contain `words`.
    pub(super) fn wait_for_lines(&self, service: &str, words: &str, count: usize) -> Result<()> {
        poll(&format!("{service} to log {words:?}"), || {
            Ok((self.count_lines(service, words)? >= count).then_some(()))
        })
    }

    /// Runs `docker compose down`, and checks that no container, volume or network remains.
    pub(super) fn down(&self) -> Result<()> {
        command::run(self.compose(&["down", "--volumes", "--timeout", "10"]))?;
        for (what, arguments) in [
            ("container", ["ps", "--all", "--quiet"].as_slice()),
            ("volume", &["volume", "ls", "--quiet"]),
            ("network", &["network", "ls", "--quiet", "--filter", "name=acceptd"]),
        ] {
            let remaining = capture(self.engine.docker(arguments))?;
            if !remaining.is_empty() {
                bail!("a {what} remains after `docker compose down`: {remaining}");
            }
        }
        Ok(())
    }
}

/// Calls `ask` once a second until it returns `Some`, for at most [`TWO_MINUTES`].
pub(super) fn poll<T>(what: &str, ask: impl Fn() -> Result<Option<T>>) -> Result<T> {
    until_after(PAUSE, what, TWO_MINUTES, ask)
}
