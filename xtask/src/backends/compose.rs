//! docker-compose.yml, run by a real engine and the real Compose: what a user sees after `docker compose up`, and that nothing is left
//! after `down`. The images are made here, and tests/compose/override.yml leaves out what cannot be.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::answer::Row;
use super::environment::Environment;
use super::{ask, images, refusals};
use crate::apt;
use crate::command::{self, capture};
use crate::docker::Engine;
use crate::go::{self, Program};
use crate::process::until_after;
use crate::workspace::Workspace;

const COMPOSE: Program<'_> = Program {
    title: "Docker Compose",
    name: "docker-compose",
    folder: "tests/docker-compose",
    package: "github.com/docker/compose/v5/cmd",
    modfile: None,
    tags: "",
    takes: "a minute",
};

const OVERRIDE: &str = "tests/compose/override.yml";
/// What it may leave out.
const LEFT_OUT: [&str; 2] = ["grafana", "kibana"];
/// Whom it may give other capabilities.
const OLDER_CAPABILITIES: [&str; 2] = ["acceptd", "check"];

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
}

/// Runs it; returns lines of what was seen.
pub(super) fn run(workspace: &Workspace, folder: &Path) -> Result<Vec<String>> {
    apt::require("dockerd", "--version", "docker.io")?;
    apt::require("busybox", "--help", "busybox-static")?;
    let compose = go::build(workspace, &COMPOSE)?;
    let environment = Environment::read(workspace)?;
    let engine = Engine::start(&folder.join("docker"), true)?;
    let scratch = super::stack::made(folder.join("images"))?;
    images::make(workspace, &engine, &environment, &scratch)?;
    let up = Up { folder, workspace, compose, engine: &engine, environment };
    let seen = refusals::run(&up).and_then(|refusals| {
        let mut seen = up.check()?;
        seen.push(refusals);
        Ok(seen)
    });
    if seen.is_err() {
        // Before it is gone.
        _ = command::run(up.compose(&["ps", "--all"]));
        _ = command::run(up.compose(&["logs", "--tail", "20"]));
    }
    let gone = up.down();
    engine.stop()?;
    let seen = seen?;
    gone?;
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
        compose.args(["--file", "docker-compose.yml", "--file", OVERRIDE]);
        compose.args(more.into_iter().flat_map(|file| [OsStr::new("--file"), file.as_os_str()]));
        compose.args(arguments);
        compose.current_dir(self.workspace.root()).env("DOCKER_HOST", self.engine.host());
        compose.envs(self.environment.all());
        compose
    }

    fn check(&self) -> Result<Vec<String>> {
        let said = self.compose(&["config", "--quiet"]).output().context("docker compose config")?;
        ensure!(
            said.status.success() && said.stderr.is_empty(),
            "config: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        self.hold_override()?;
        command::run(self.compose(&["up", "--detach", "--no-build", "--quiet-pull"]))?;
        let (id, pid) = self.container("slow")?;
        // The newest: who came before the agent captured has no record.
        let record = patiently("the record of a client of the slow server", || {
            let Some(peer) = self.accepted("slow")?.pop() else { return Ok(None) };
            let query = format!("{{service_name=\"slow\"}} | network_peer_port=\"{peer}\"");
            let is_it =
                |row: &Row| row.get("container_id") == Some(&id) && row.get("process_pid") == Some(&pid);
            sleep(ON_THE_WAY);
            self.row("loki", "LOKI_PORT", &query, is_it)
        })?;
        let waited =
            record.get("acceptd_accept_queue_time_ns").and_then(|text| text.parse().ok()).unwrap_or(0.0);
        ensure!(WAITED_NS.contains(&waited), "a client of the slow server waited {waited} ns: {record:?}");
        let trace = record.get("trace_id").context("its record has no trace")?;
        patiently("its trace in Jaeger", || {
            self.row("jaeger", "JAEGER_PORT", &format!("GET /api/traces/{trace}"), |row| {
                row.get("name").is_some_and(|name| name == "accept queue")
                    && row.get("process_pid") == Some(&pid)
            })
        })?;
        for service in ["fast", "slow", "crowded", "exhausted", "unix"] {
            let query =
                format!("sum(acceptd_listener_accepts_total{{acceptd_listener_service=\"{service}\"}})");
            let counted = |row: &Row| row.get("value").is_some_and(|value| value != "0");
            patiently(&format!("Prometheus to count accepts of {service}"), || {
                self.row("prometheus", "PROMETHEUS_PORT", &query, counted)
            })?;
        }
        let url = format!("Jaeger: http://localhost:{}", self.environment.value("JAEGER_PORT")?);
        self.said("backends", &url, 1)?;
        // It goes away, and comes back.
        let (away, back) = (self.times("backends", "Loki is away")?, self.times("backends", "Loki answers")?);
        command::run(self.compose(&["stop", "loki"]))?;
        self.said("backends", "Loki is away", away + 1)?;
        let before = self.accepted("slow")?.len();
        let missed =
            patiently("a client while Loki is away", || Ok(self.accepted("slow")?.get(before).cloned()))?;
        command::run(self.compose(&["start", "loki"]))?;
        self.said("backends", "Loki answers", back + 1)?;
        let query = format!("{{service_name=\"slow\"}} | network_peer_port=\"{missed}\"");
        patiently("the record of a client who came while Loki was away", || {
            self.row("loki", "LOKI_PORT", &query, |row| row.get("process_pid") == Some(&pid))
        })?;
        Ok(vec![
            format!(
                "compose: a client of the slow server waited {:.1} ms, by Loki and by its trace in Jaeger",
                waited / 1e6
            ),
            "compose: a record of the time in which Loki was away is there".to_owned(),
        ])
    }

    /// A service's container by the engine's own word, and its program's process by the kernel's: the child of the first.
    fn container(&self, service: &str) -> Result<(String, String)> {
        let id = capture(self.compose(&["ps", "--quiet", "--no-trunc", service]))?;
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

    /// The override takes the list away and gives the older capabilities, and changes nothing else.
    fn hold_override(&self) -> Result<()> {
        let services = |files: &[&str]| -> Result<Value> {
            let mut compose = Command::new(&self.compose);
            compose.args(files.iter().flat_map(|file| ["--file", file]));
            // Grafana and Kibana have a profile when they are left out, and Kibana has one anyway.
            compose.args(["--profile", "elastic", "config", "--format", "json"]);
            compose.current_dir(self.workspace.root()).envs(self.environment.all());
            let all: Value = serde_json::from_str(&capture(compose)?).context("docker compose config")?;
            Ok(all["services"].clone())
        };
        let mut shipped = services(&["docker-compose.yml"])?;
        let here = services(&["docker-compose.yml", OVERRIDE])?;
        let all = shipped.as_object_mut().context("no services")?;
        for name in LEFT_OUT {
            ensure!(all.remove(name).is_some(), "{name} is no service of docker-compose.yml");
        }
        for name in OLDER_CAPABILITIES {
            all[name]["cap_add"] = here[name]["cap_add"].clone();
        }
        ensure!(shipped == here, "{OVERRIDE} changes more than it may");
        Ok(())
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
