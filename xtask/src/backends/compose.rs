//! docker-compose.yml, run by a real engine and the real Compose: what a user sees after `docker compose up`, and that nothing is left
//! after `down`. The images are made here, and tests/compose/override.yml leaves out what cannot be.

mod files;
mod store;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use files::{OVERRIDE, SHIPPED};
use store::{ELASTICSEARCH, LOKI, Store, VICTORIALOGS};

use super::{answer::Row, ask, environment::Environment, images, refusals};
use crate::{
    apt,
    command::{
        capture, {self},
    },
    docker::Engine,
    go::{
        Program, {self},
    },
    process::until_after,
    workspace::Workspace,
};

const COMPOSE: Program<'_> = Program {
    title: "Docker Compose",
    name: "docker-compose",
    folder: "tests/docker-compose",
    package: "github.com/docker/compose/v5/cmd",
    modfile: None,
    tags: "",
    takes: "a minute",
};

/// What the quick suite does not run: it does not build them.
const LEFT_TO_FULL: [&str; 3] = ["jaeger", "loki", "prometheus"];
/// The profile of [`ELASTICSEARCH`]; that of [`VICTORIALOGS`] has its name.
const ELASTIC: &str = "elastic";

/// What a user waits, by the README, for data to be there.
const TWO_MINUTES: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_secs(1);
/// How long a record may be on its way: the agent gathers for a second, the Collector for a part of one.
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// The slow server lets each client wait for 300 ms; a machine that starts twenty containers takes its time, too.
const WAITED_NS: std::ops::RangeInclusive<f64> = 299e6..=500e6;

/// It is up.
pub(super) struct Up<'a> {
    /// For files of the suite.
    folder: &'a Path,
    workspace: &'a Workspace,
    compose: PathBuf,
    engine: &'a Engine,
    pub(super) environment: Environment,
    full: bool,
    /// What runs besides.
    profile: &'static str,
}

/// Builds Compose, while others are built.
pub(super) fn ahead(workspace: &Workspace) -> Result<()> {
    go::build_ahead(workspace, &COMPOSE)
}

/// Runs all of it, or without `full` what needs nothing of [`LEFT_TO_FULL`]; returns lines of what was seen.
pub(super) fn run(workspace: &Workspace, folder: &Path, full: bool) -> Result<Vec<String>> {
    apt::require("dockerd", "--version", "docker.io")?;
    apt::require("busybox", "--help", "busybox-static")?;
    let compose = go::build(workspace, &COMPOSE)?;
    let environment = Environment::read(workspace)?;
    let engine = Engine::start(&folder.join("docker"), true)?;
    let scratch = super::stack::made(folder.join("images"))?;
    images::make(workspace, &engine, &environment, &scratch, full)?;
    let mut up =
        Up { folder, workspace, compose, engine: &engine, environment, full, profile: VICTORIALOGS.name };
    let mut seen = up.with_profile(VICTORIALOGS.name, |up| {
        let mut seen = vec![refusals::run(up)?];
        seen.extend(up.check()?);
        Ok(seen)
    })?;
    if full {
        seen.extend(up.with_profile(ELASTIC, |up| {
            up.start(&[])?;
            let mut seen = up.keeps(&ELASTICSEARCH)?;
            seen.push(up.goes_away(&ELASTICSEARCH)?);
            Ok(seen)
        })?);
    }
    engine.stop()?;
    Ok(seen)
}

impl Up<'_> {
    /// A file to go on top.
    pub(super) fn file(&self, text: &str) -> Result<PathBuf> {
        let file = self.folder.join("more.yml");
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    pub(super) fn compose(&self, arguments: &[&str]) -> Command {
        self.compose_with(None, arguments)
    }

    /// With another file on top.
    pub(super) fn compose_with(&self, more: Option<&Path>, arguments: &[&str]) -> Command {
        let mut compose = Command::new(&self.compose);
        compose.args(["--file", SHIPPED, "--file", OVERRIDE]);
        compose.args(more.into_iter().flat_map(|file| [OsStr::new("--file"), file.as_os_str()]));
        compose.args(arguments);
        compose.current_dir(self.workspace.root()).env("DOCKER_HOST", self.engine.host());
        compose.envs(self.environment.all()).env("COMPOSE_PROFILES", self.profile);
        compose
    }

    /// Runs to its end, and leaves nothing.
    fn with_profile(
        &mut self,
        profile: &'static str,
        check: impl FnOnce(&Self) -> Result<Vec<String>>,
    ) -> Result<Vec<String>> {
        self.profile = profile;
        let seen = check(self);
        if seen.is_err() {
            // Before it is gone.
            _ = command::run(self.compose(&["ps", "--all"]));
            _ = command::run(self.compose(&["logs", "--tail", "20"]));
        }
        let gone = self.down();
        let seen = seen?;
        gone.map(|()| seen)
    }

    /// Starts all of it but those, until everybody is well who can be asked.
    fn start(&self, without: &[&str]) -> Result<()> {
        let said = self.compose(&["config", "--quiet"]).output().context("docker compose config")?;
        ensure!(
            said.status.success() && said.stderr.is_empty(),
            "config: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        let mut services = self.services()?;
        services.retain(|service| !without.contains(&service.as_str()));
        self.up(&services)?;
        let all = self.configured(&[SHIPPED, OVERRIDE])?;
        for service in services.iter().filter(|service| all[service.as_str()]["healthcheck"].is_object()) {
            self.is_healthy(service)?;
        }
        Ok(())
    }

    fn up(&self, services: &[String]) -> Result<()> {
        let mut up = self.compose(&["up", "--detach", "--no-build", "--quiet-pull"]);
        up.args(services);
        command::run(up)
    }

    fn is_healthy(&self, service: &str) -> Result<()> {
        patiently(&format!("{service} to be healthy"), || {
            let id = self.id(service)?;
            let health =
                capture(self.engine.docker(&["inspect", "--format", "{{.State.Health.Status}}", &id]))?;
            Ok((health == "healthy").then_some(()))
        })
    }

    fn check(&self) -> Result<Vec<String>> {
        self.hold_files()?;
        let began = Instant::now();
        // Down at the start, and with --full not for ever.
        self.start(&[LOKI.name])?;
        let mut seen = self.keeps(&VICTORIALOGS)?;
        let waited = began.elapsed();
        ensure!(waited < TWO_MINUTES, "the first record was found {waited:?} after `up`");
        seen.push(format!("compose: {} s from `up` to that record", waited.as_secs()));
        self.said(LOKI.told_by, &LOKI.is_away(), 1)?;
        if self.full {
            seen.push(self.comes_late(&LOKI)?);
            seen.extend(self.keeps(&LOKI)?);
            self.counted()?;
        }
        seen.push(self.goes_away(if self.full { &LOKI } else { &VICTORIALOGS })?);
        Ok(seen)
    }

    /// Those that run here.
    fn services(&self) -> Result<Vec<String>> {
        let all = capture(self.compose(&["config", "--services"]))?;
        for name in LEFT_TO_FULL {
            ensure!(all.lines().any(|service| service == name), "{name} is no service of {SHIPPED}");
        }
        let runs = |service: &&str| self.full || !LEFT_TO_FULL.contains(service);
        Ok(all.lines().filter(runs).map(str::to_owned).collect())
    }

    /// The record of a client of the slow server, who waited as long as that lets its clients wait.
    fn keeps(&self, store: &Store) -> Result<Vec<String>> {
        let (id, pid) = self.container("slow")?;
        // The newest: who came before the agent captured has no record.
        let what = format!("the record of a client of the slow server in {}", store.title);
        let record = patiently(&what, || {
            let Some(peer) = self.accepted("slow")?.pop() else { return Ok(None) };
            let is_it =
                |row: &Row| row.get("container_id") == Some(&id) && row.get("process_pid") == Some(&pid);
            sleep(ON_THE_WAY);
            self.row(store.name, store.port, &(store.query)(&peer), is_it)
        })?;
        let waited =
            record.get("acceptd_accept_queue_time_ns").and_then(|text| text.parse().ok()).unwrap_or(0.0);
        ensure!(WAITED_NS.contains(&waited), "a client of the slow server waited {waited} ns: {record:?}");
        let mut seen = vec![format!(
            "compose: a client of the slow server waited {:.1} ms, by its record in {}",
            waited / 1e6,
            store.title
        )];
        if self.full {
            let trace = record.get("trace_id").context("its record has no trace")?;
            patiently("its trace in Jaeger", || {
                self.row("jaeger", "JAEGER_PORT", &format!("GET /api/traces/{trace}"), |row| {
                    row.get("name").is_some_and(|name| name == "accept queue")
                        && row.get("process_pid") == Some(&pid)
                })
            })?;
            seen.push(format!("compose: the ids of its record in {} open its trace in Jaeger", store.title));
        }
        Ok(seen)
    }

    /// Prometheus counts accepts of each server, and the user is told where Jaeger is.
    fn counted(&self) -> Result<()> {
        for service in ["fast", "slow", "crowded", "exhausted", "unix"] {
            let query =
                format!("sum(acceptd_listener_accepts_total{{acceptd_listener_service=\"{service}\"}})");
            let counted = |row: &Row| row.get("value").is_some_and(|value| value != "0");
            patiently(&format!("Prometheus to count accepts of {service}"), || {
                self.row("prometheus", "PROMETHEUS_PORT", &query, counted)
            })?;
        }
        let url = format!("Jaeger: http://localhost:{}", self.environment.value("JAEGER_PORT")?);
        self.said("backends", &url, 1)
    }

    /// The user is told that it is away and that it is back, and nothing of the time between is missing.
    fn goes_away(&self, store: &Store) -> Result<String> {
        let is_away = store.is_away();
        let (away, back) = (self.times(store.told_by, &is_away)?, self.times(store.told_by, store.is_back)?);
        command::run(self.compose(&["stop", store.name]))?;
        self.said(store.told_by, &is_away, away + 1)?;
        let missed = self.missed(store)?;
        command::run(self.compose(&["start", store.name]))?;
        self.said(store.told_by, store.is_back, back + 1)?;
        self.has(store, &missed)?;
        Ok(format!("compose: a record of the time in which {} was away is there", store.title))
    }

    /// Likewise of one that was not there at the start.
    fn comes_late(&self, store: &Store) -> Result<String> {
        let missed = self.missed(store)?;
        self.up(&[store.name.to_owned()])?;
        self.said(store.told_by, store.is_back, 1)?;
        self.has(store, &missed)?;
        Ok(format!("compose: {} was down at the start; a record of before it came is there", store.title))
    }

    /// A client of the slow server who comes while a store is away.
    fn missed(&self, store: &Store) -> Result<String> {
        let before = self.accepted("slow")?.len();
        patiently(&format!("a client while {} is away", store.title), || {
            Ok(self.accepted("slow")?.get(before).cloned())
        })
    }

    /// Its record.
    fn has(&self, store: &Store, missed: &str) -> Result<()> {
        let (_, pid) = self.container("slow")?;
        patiently(&format!("the record of a client who came while {} was away", store.title), || {
            self.row(store.name, store.port, &(store.query)(missed), |row| {
                row.get("process_pid") == Some(&pid)
            })
        })
        .map(drop)
    }

    fn id(&self, service: &str) -> Result<String> {
        capture(self.compose(&["ps", "--quiet", "--no-trunc", service]))
    }

    /// A service's container by the engine's own word, and its program's process by the kernel's: the child of the first.
    fn container(&self, service: &str) -> Result<(String, String)> {
        let id = self.id(service)?;
        let init = capture(self.engine.docker(&["inspect", "--format", "{{.State.Pid}}", &id]))?;
        let children = format!("/proc/{init}/task/{init}/children");
        let child = std::fs::read_to_string(&children).with_context(|| format!("reading {children}"))?;
        Ok((id, child.trim().to_owned()))
    }

    /// A row of an answer, if there is one like that; a backend that does not answer may be starting still.
    fn row(
        &self,
        backend: &str,
        port: &str,
        query: &str,
        is_it: impl Fn(&Row) -> bool,
    ) -> Result<Option<Row>> {
        match ask::ask(backend, self.environment.port(port)?, query) {
            Ok(rows) => Ok(rows.into_iter().find(is_it)),
            Err(error) => {
                eprintln!("{backend}: {error:#}");
                Ok(None)
            }
        }
    }

    /// Ports of those whom a server has accepted, by its own word.
    fn accepted(&self, service: &str) -> Result<Vec<String>> {
        let said = capture(self.compose(&["logs", "--no-log-prefix", service]))?;
        let peer =
            |line: &str| line.strip_prefix("accepted ")?.rsplit_once(':').map(|(_, port)| port.to_owned());
        Ok(said.lines().filter_map(peer).collect())
    }

    /// How often a service has said so.
    fn times(&self, service: &str, words: &str) -> Result<usize> {
        let said = capture(self.compose(&["logs", "--no-log-prefix", service]))?;
        Ok(said.lines().filter(|line| line.contains(words)).count())
    }

    fn said(&self, service: &str, words: &str, times: usize) -> Result<()> {
        patiently(&format!("{service} to say {words:?}"), || {
            Ok((self.times(service, words)? >= times).then_some(()))
        })
    }

    /// Nothing is left: no container, volume or network.
    fn down(&self) -> Result<()> {
        command::run(self.compose(&["down", "--volumes", "--timeout", "10"]))?;
        for (what, arguments) in [
            ("container", ["ps", "--all", "--quiet"].as_slice()),
            ("volume", &["volume", "ls", "--quiet"]),
            ("network", &["network", "ls", "--quiet", "--filter", "name=acceptd"]),
        ] {
            let left = capture(self.engine.docker(arguments))?;
            if !left.is_empty() {
                bail!("a {what} is left after `docker compose down`: {left}");
            }
        }
        Ok(())
    }
}

/// Asks each second for as long as a user waits.
fn patiently<T>(what: &str, ask: impl Fn() -> Result<Option<T>>) -> Result<T> {
    until_after(PAUSE, what, TWO_MINUTES, ask)
}
