//! The suites of tests/suites: installs and builds what a suite needs, and starts it.

use std::{fs, process::Command};

use anyhow::Result;
use xtask_support::{Extent, External, Workspace, command, root};

use crate::{
    apt::{self, Package},
    build, externals,
};

/// The servers whose records the suite e2e compares with what the server itself says, and its tools.
const E2E_PACKAGES: [Package; 14] = [
    ("nginx", "-v", "nginx"),
    ("redis-server", "--version", "redis-server"),
    ("haproxy", "-v", "haproxy"),
    ("node", "--version", "nodejs"),
    ("java", "-version", "default-jdk-headless"),
    DOCKER,
    ("strace", "--version", "strace"),
    ("apache2", "-v", "apache2"),
    ("uwsgi", "--version", "uwsgi-core uwsgi-plugin-python3"),
    ("/usr/bin/gunicorn", "--version", "gunicorn"),
    ("memcached", "--version", "memcached"),
    ("dovecot", "--version", "dovecot-imapd"),
    ("systemd-socket-activate", "--version", "systemd"),
    ("ip", "-V", "iproute2"),
];
const DOCKER: Package = ("dockerd", "--version", "docker.io");
const BUSYBOX: Package = ("busybox", "--help", "busybox-static");
/// For the image of Elasticsearch, and for the network namespaces of the gateways.
const BACKENDS_FULL_PACKAGES: [Package; 2] = [("curl", "--version", "curl"), ("ip", "-V", "iproute2")];
const PICTURES_PACKAGES: [Package; 2] =
    [("chromium", "--version", "chromium fonts-dejavu-core"), ("gnuplot", "--version", "gnuplot-nox")];

const BACKENDS_EXTERNALS: [External; 5] = [
    External::Collector,
    External::CollectorElastic,
    External::Elasticsearch,
    External::VictoriaLogs,
    External::Compose,
];
const BACKENDS_FULL_EXTERNALS: [External; 4] =
    [External::CollectorContrib, External::Loki, External::Prometheus, External::Jaeger];
const PICTURES_EXTERNALS: [External; 8] = [
    External::Collector,
    External::CollectorElastic,
    External::Elasticsearch,
    External::VictoriaLogs,
    External::Loki,
    External::Prometheus,
    External::Jaeger,
    External::Termtosvg,
];

/// `cargo xtask demo`
pub(crate) fn demo(workspace: &Workspace) -> Result<()> {
    root::require("demo")?;
    start(workspace, &["demo"], build::QUICK, &[])
}

/// `cargo xtask e2e`
pub(crate) fn e2e(workspace: &Workspace, extent: Extent) -> Result<()> {
    root::require("e2e")?;
    apt::require_all(&E2E_PACKAGES)?;
    if !has_postgresql() {
        apt::install("postgresql")?;
    }
    if !has_file("/usr/sbin", |name| name.starts_with("php-fpm")) {
        apt::install("php-fpm")?;
    }
    install_python_tests()?;
    let mut wanted = vec![External::Collector, External::GoListener, External::Bun, External::Deno];
    if extent.full {
        wanted.extend([External::CollectorContrib, External::Jaeger]);
    }
    start(workspace, &["e2e", extent.flag()], build::profile(extent), &wanted)
}

/// `cargo xtask backends`
pub(crate) fn backends(workspace: &Workspace, extent: Extent) -> Result<()> {
    root::require("backends")?;
    apt::require_all(&[DOCKER, BUSYBOX])?;
    let mut wanted = BACKENDS_EXTERNALS.to_vec();
    if extent.full {
        apt::require_all(&BACKENDS_FULL_PACKAGES)?;
        wanted.extend(BACKENDS_FULL_EXTERNALS);
        // docker-compose.yml is run with the images that users build, of static programs.
        build::dist(workspace, build::RELEASE, false)?;
    }
    start(workspace, &["backends", extent.flag()], build::profile(extent), &wanted)
}

/// `cargo xtask pictures`
pub(crate) fn pictures(workspace: &Workspace) -> Result<()> {
    root::require("pictures")?;
    apt::require_all(&PICTURES_PACKAGES)?;
    start(workspace, &["pictures"], build::RELEASE, &PICTURES_EXTERNALS)
}

/// Debian keeps the server's programs in a folder of its version, which is not on the PATH.
fn has_postgresql() -> bool {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    versions.filter_map(Result::ok).any(|version| version.path().join("bin/postgres").exists())
}

/// The tests of Debian's Python are a package with the version in its name.
fn install_python_tests() -> Result<()> {
    apt::require("/usr/bin/python3", "--version", "python3")?;
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", "import sys; print('python%d.%d' % sys.version_info[:2])"]);
    let version = command::capture(python)?;
    if has_file(&format!("/usr/lib/{version}/test"), |name| name == "test_socket.py") {
        return Ok(());
    }
    apt::install(&format!("lib{version}-testsuite"))
}

fn has_file(folder: &str, is_wanted: impl Fn(&str) -> bool) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.into_iter().any(|entry| entry.file_name().to_str().is_some_and(&is_wanted))
}

/// Builds the suites with the agent, builds the externals, and runs the suite in the root of the checkout.
fn start(workspace: &Workspace, arguments: &[&str], profile: &str, wanted: &[External]) -> Result<()> {
    let externals = externals::build(workspace, wanted)?;
    let programs = build::suites(workspace, profile)?;
    let mut suite = Command::new(programs.join("suites"));
    suite.args(arguments).arg("--programs").arg(&programs).args(externals.arguments());
    suite.current_dir(workspace.root());
    command::run(suite)
}
