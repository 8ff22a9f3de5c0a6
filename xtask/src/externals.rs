//! The external programs of the suites: servers, Collectors and tools in Go, built from the modules under
//! tests/; Bun, Deno, Elasticsearch and termtosvg.

use std::path::PathBuf;

use anyhow::Result;
use xtask_support::{External, Externals, Workspace};

use crate::{
    elasticsearch,
    go::{self, GoProgram},
    npm, termtosvg,
};

/// The Collector with the components that the configurations for one host name.
const COLLECTOR: GoProgram = GoProgram {
    title: "the Collector",
    name: "otelcol",
    folder: "tests/collector",
    package: ".",
    modfile: None,
    tags: "",
    takes: "two to four minutes",
};

/// The Collector that has the components of the configurations for many hosts, too.
const COLLECTOR_CONTRIB: GoProgram = GoProgram {
    title: "the Collector for many machines",
    name: "otelcol-contrib",
    tags: "contrib",
    takes: "four or five minutes",
    ..COLLECTOR
};

/// The Collector with the components that otel-config/elastic.yaml names, in other versions.
const COLLECTOR_ELASTIC: GoProgram = GoProgram {
    title: "the Collector with Elasticsearch's exporter",
    name: "otelcol-elastic",
    modfile: Some("elastic.mod"),
    tags: "elastic",
    takes: "three or four minutes",
    ..COLLECTOR
};

const COMPOSE: GoProgram = GoProgram {
    title: "Docker Compose",
    name: "docker-compose",
    folder: "tests/docker-compose",
    package: "github.com/docker/compose/v5/cmd",
    modfile: None,
    tags: "",
    takes: "a minute",
};

const GO_LISTENER: GoProgram = GoProgram {
    title: "the Go listener",
    name: "golistener",
    folder: "tests/golistener",
    package: ".",
    modfile: None,
    tags: "",
    takes: "some seconds",
};

const JAEGER: GoProgram = GoProgram {
    title: "Jaeger",
    name: "jaeger",
    folder: "tests/jaeger",
    package: "github.com/jaegertracing/jaeger/cmd/jaeger",
    modfile: None,
    tags: "",
    takes: "six or seven minutes",
};

const LOKI: GoProgram = GoProgram {
    title: "Loki",
    name: "loki",
    folder: "tests/loki",
    package: "github.com/grafana/loki/v3/cmd/loki",
    modfile: None,
    tags: "",
    takes: "six minutes",
};

/// Without the web page, which is not part of the module, and without the discovery of cloud targets.
const PROMETHEUS: GoProgram = GoProgram {
    title: "Prometheus",
    name: "prometheus",
    folder: "tests/prometheus",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    modfile: None,
    tags: "remove_all_sd",
    takes: "two minutes",
};

const VICTORIA_LOGS: GoProgram = GoProgram {
    title: "VictoriaLogs",
    name: "victoria-logs",
    folder: "tests/victoria-logs",
    package: "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs",
    modfile: None,
    tags: "",
    takes: "a minute",
};

/// The Go programs that CI's suites need, in the order in which CI builds them ahead.
const AHEAD: [&GoProgram; 4] = [&COLLECTOR, &COLLECTOR_ELASTIC, &VICTORIA_LOGS, &COMPOSE];

/// Builds or fetches external programs, unless the cache has them.
pub(crate) fn build(workspace: &Workspace, wanted: &[External]) -> Result<Externals> {
    let mut externals = Externals::default();
    for external in wanted {
        externals.insert(*external, build_one(workspace, *external)?);
    }
    Ok(externals)
}

/// Builds or fetches one external program, and returns its path.
pub(crate) fn build_one(workspace: &Workspace, external: External) -> Result<PathBuf> {
    let program = match external {
        External::Bun => return npm::fetch(&npm::BUN),
        External::Collector => COLLECTOR,
        External::CollectorContrib => COLLECTOR_CONTRIB,
        External::CollectorElastic => COLLECTOR_ELASTIC,
        External::Compose => COMPOSE,
        External::Deno => return npm::fetch(&npm::DENO),
        External::Elasticsearch => return elasticsearch::fetch(),
        External::GoListener => GO_LISTENER,
        External::Jaeger => JAEGER,
        External::Loki => LOKI,
        External::Prometheus => PROMETHEUS,
        External::Termtosvg => return termtosvg::install(workspace),
        External::VictoriaLogs => VICTORIA_LOGS,
    };
    go::build(workspace, &program)
}

/// Builds the external programs of CI at the lowest priority, while other steps run.
pub(crate) fn build_ahead(workspace: &Workspace) -> Result<()> {
    AHEAD.into_iter().try_for_each(|program| go::build_ahead(workspace, program))
}
