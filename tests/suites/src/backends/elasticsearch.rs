//! Starts Elasticsearch and installs the index templates of otel-config. xtask fetches the distribution
//! (xtask/src/elasticsearch.rs).

pub(super) mod image;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;
use xtask_support::{External, command::capture};

use super::backend::Backend;
use crate::{host, http, suite::Suite};

/// Options of the JVM for the quick suite, for which 384 MiB of heap suffice.
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

/// Java flags for more than a few hundred documents per second: more heap, and the optimizing compiler.
pub(super) const LARGE_FLAGS: &str = "-Xmx1g -XX:TieredStopAtLevel=4";

/// Starts Elasticsearch with additional Java flags, and installs the index templates.
pub(super) fn start(suite: &Suite, folder: &Path, flags: &str) -> Result<Backend> {
    let home = suite.external(External::Elasticsearch)?;
    let port = host::free_port()?;
    let config = folder.join("config");
    for folder in [&config, &folder.join("tmp")] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let settings = format!(
        "path.data: {data}\npath.logs: {logs}\nnetwork.host: 127.0.0.1\nhttp.port: {port}\ntransport.port: {}\ndiscovery.type: single-node
xpack.security.enabled: false\ncluster.routing.allocation.disk.threshold_enabled: false\n",
        host::free_port()?,
        data = folder.join("data").display(),
        logs = folder.join("logs").display(),
    );
    configure(&config, &settings)?;
    // Elasticsearch refuses to run as root; in this user namespace the root user appears as uid 1000.
    let mut server = Command::new("unshare");
    server.args(["--user", "--map-user=1000", "--map-group=1000"]).arg(home.join("bin/elasticsearch"));
    server
        .env("ES_JAVA_HOME", java_home()?)
        .env("ES_PATH_CONF", &config)
        .env("ES_JAVA_OPTS", flags)
        .env("ES_TMPDIR", folder.join("tmp"));
    server.env_remove("JAVA_TOOL_OPTIONS").current_dir(folder);
    // The script starts the server as a child process. With its own process group, dropping the process kills
    // both.
    server.process_group(0);
    let mut backend = Backend::start("Elasticsearch", server, folder, port, "/_cluster/health")?;
    // After SIGTERM the JVM exits with 128 + the signal.
    backend.exit_code = 128 + 15;
    for name in ["logs-acceptd", "traces-acceptd"] {
        let file = format!("otel-config/elastic/{name}.json");
        let text = fs::read_to_string(suite.path(&file)).with_context(|| format!("reading {file}"))?;
        let template: Value = serde_json::from_str(&text).with_context(|| file.clone())?;
        http::send_json("PUT", port, &format!("/_index_template/{name}"), &template)?;
    }
    Ok(backend)
}

/// Writes the three files of a configuration folder: `settings`, the options of the JVM, and logging.
pub(super) fn configure(folder: &Path, settings: &str) -> Result<()> {
    for (name, text) in
        [("elasticsearch.yml", settings), ("jvm.options", JVM), ("log4j2.properties", LOGGING)]
    {
        fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}

/// The installation folder of the `java` on the PATH.
pub(super) fn java_home() -> Result<PathBuf> {
    let mut which = Command::new("sh");
    which.args(["-c", "readlink -f \"$(command -v java)\""]);
    let java = PathBuf::from(capture(which)?);
    Ok(java.ancestors().nth(2).context("the program java is not in a folder bin")?.to_owned())
}
