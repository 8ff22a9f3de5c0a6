//! Elasticsearch, in the distribution that Elastic publishes for integration tests. It lacks the modules that
//! Elastic's own templates for data streams need, so the suite shows that the templates of otel-config
//! suffice.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use xtask_support::command;

use crate::{apt, go};

const VERSION: &str = "8.19.21";
const UNPACK: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack";

/// Fetches and unpacks the distribution with Maven, unless the cache has it; returns its folder. Installs
/// Java.
pub(crate) fn fetch() -> Result<PathBuf> {
    apt::require("java", "--version", "default-jre-headless")?;
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
    // Unpacked into a temporary folder and renamed, so that an interrupted fetch leaves nothing in the cache.
    let unfinished = tempfile::tempdir_in(&cache).context("no temporary folder in the cache")?;
    maven.arg(format!("-DoutputDirectory={}", unfinished.path().display()));
    // The plugin writes its markers below the working directory.
    maven.current_dir(unfinished.path());
    command::run(maven)
        .context("Elasticsearch could not be fetched: Maven's repository must be reachable")?;
    fs::rename(unfinished.path().join(format!("elasticsearch-{VERSION}")), &home)
        .context("moving Elasticsearch into the cache")?;
    Ok(home)
}
