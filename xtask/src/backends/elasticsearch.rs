//! Elasticsearch, in the distribution that Elastic publishes for tests of integration: without the modules that its own templates of
//! data streams want, so that ours must do.

pub(super) mod image;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::backend::Backend;
use crate::{apt, command, go, host, http, workspace::Workspace};

const VERSION: &str = "8.19.21";
const UNPACK: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack";

/// What else it has to be told than where it is: 119 MB of it run in half a gigabyte.
const JVM: &str = "-Xms128m
-Xmx384m
-XX:+UseSerialGC
-XX:TieredStopAtLevel=1
-XX:+ExitOnOutOfMemoryError
-Djava.io.tmpdir=${ES_TMPDIR}
";
const LOGGING: &str = "status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d [%p] %c{1.} %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
";

/// Compiled better, and with more memory: for more than some hundred documents a second.
pub(super) const LARGE: &str = "-Xmx1g -XX:TieredStopAtLevel=4";

/// With the project's index templates, and more flags for Java.
pub(super) fn start(workspace: &Workspace, folder: &Path, flags: &str) -> Result<Backend> {
    let home = unpacked()?;
    let port = host::free_port()?;
    let config = folder.join("config");
    for part in [&config, &folder.join("tmp")] {
        fs::create_dir_all(part).with_context(|| format!("making {}", part.display()))?;
    }
    let settings = format!(
        "path.data: {data}\npath.logs: {logs}\nnetwork.host: 127.0.0.1\nhttp.port: {port}\ntransport.port: {}\ndiscovery.type: single-node
xpack.security.enabled: false\ncluster.routing.allocation.disk.threshold_enabled: false\n",
        host::free_port()?,
        data = folder.join("data").display(),
        logs = folder.join("logs").display(),
    );
    configure(&config, &settings)?;
    // It refuses to run as root; in a namespace of its own root is somebody else.
    let mut server = Command::new("unshare");
    server.args(["--user", "--map-user=1000", "--map-group=1000"]).arg(home.join("bin/elasticsearch"));
    server
        .env("ES_JAVA_HOME", java_home()?)
        .env("ES_PATH_CONF", &config)
        .env("ES_JAVA_OPTS", flags)
        .env("ES_TMPDIR", folder.join("tmp"));
    server.env_remove("JAVA_TOOL_OPTIONS").current_dir(folder);
    // What it starts is what serves.
    server.process_group(0);
    let mut backend = Backend::start("Elasticsearch", server, folder, port, "/_cluster/health")?;
    // As every Java program after SIGTERM.
    backend.code = 128 + 15;
    for name in ["logs-acceptd", "traces-acceptd"] {
        let file = format!("otel-config/elastic/{name}.json");
        let text = fs::read_to_string(workspace.path(&file)).with_context(|| format!("reading {file}"))?;
        let template: Value = serde_json::from_str(&text).with_context(|| file.clone())?;
        http::send_json("PUT", port, &format!("/_index_template/{name}"), &template)?;
    }
    Ok(backend)
}

/// Fills its folder of configuration.
fn configure(folder: &Path, settings: &str) -> Result<()> {
    for (name, text) in
        [("elasticsearch.yml", settings), ("jvm.options", JVM), ("log4j2.properties", LOGGING)]
    {
        fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}

/// Where it is unpacked, once.
fn unpacked() -> Result<PathBuf> {
    let cache = go::cache()?;
    let home = cache.join(format!("elasticsearch-{VERSION}"));
    if home.join("bin/elasticsearch").exists() {
        return Ok(home);
    }
    apt::require("mvn", "--version", "maven")?;
    eprintln!("fetching Elasticsearch {VERSION} into {}, 107 MB", home.display());
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", UNPACK]);
    maven
        .arg(format!("-Dartifact=org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"));
    // Whole, or not there.
    let unfinished = tempfile::tempdir_in(&cache).context("no temporary folder in the cache")?;
    maven.arg(format!("-DoutputDirectory={}", unfinished.path().display()));
    // Where no project is, it marks what it has done beside itself.
    maven.current_dir(unfinished.path());
    command::run(maven)
        .context("Elasticsearch could not be fetched: Maven's repository must be reachable")?;
    fs::rename(unfinished.path().join(format!("elasticsearch-{VERSION}")), &home)
        .context("moving Elasticsearch into the cache")?;
    Ok(home)
}

/// Of the `java` on the PATH.
fn java_home() -> Result<PathBuf> {
    apt::require("java", "--version", "default-jre-headless")?;
    let mut which = Command::new("sh");
    which.args(["-c", "readlink -f \"$(command -v java)\""]);
    let java = PathBuf::from(command::capture(which)?);
    Ok(java.ancestors().nth(2).context("java is in no folder bin")?.to_owned())
}
