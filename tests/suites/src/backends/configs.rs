//! Validates every Collector configuration of otel-config with the Collector distribution that it is written
//! for.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use xtask_support::External;

use crate::{collector, suite::Suite};

/// Configurations for one host. In a list of several files, each overrides those before it.
const CORE: [&[&str]; 5] = [
    &["minimal.yaml"],
    &["demo.yaml", "demo/none.yaml"],
    &["demo.yaml", "demo/elastic.yaml"],
    &["demo.yaml", "demo/victorialogs.yaml"],
    &["victorialogs.yaml"],
];
/// Configurations for many hosts.
const CONTRIB: [&[&str]; 6] = [
    &["kubernetes.yaml"],
    &["kubernetes.yaml", "../packaging/kubernetes/base/backend.yaml"],
    &["gateway/agent.yaml"],
    &["gateway/gateway.yaml"],
    &["kafka/agent.yaml"],
    &["kafka/gateway.yaml"],
];
/// Configurations with Elasticsearch's exporter.
const ELASTIC: [&[&str]; 1] = [&["elastic.yaml"]];

/// Folders of otel-config without Collector configurations.
const OTHER_FOLDERS: [&str; 5] = ["elastic", "jaeger", "loki", "prometheus", "registry"];
/// A file of otel-config that is for kustomize, not for the Collector.
const KUSTOMIZATION: &str = "kustomization.yaml";

/// Validates all configurations, or without `all` only those for the Collectors that the quick suite builds.
/// Returns how many were validated.
pub(super) fn validate(suite: &Suite, all: bool) -> Result<usize> {
    check_lists(&suite.path("otel-config"))?;
    let mut sets = vec![
        (suite.external(External::Collector)?, CORE.as_slice()),
        (suite.external(External::CollectorElastic)?, &ELASTIC),
    ];
    if all {
        sets.push((suite.external(External::CollectorContrib)?, &CONTRIB));
    }
    let mut count = 0;
    for (binary, configs) in sets {
        for files in configs {
            let paths: Vec<PathBuf> = files.iter().map(|file| suite.path("otel-config").join(file)).collect();
            collector::validate(binary, &paths)
                .with_context(|| format!("otel-config/{}", files.join(" and ")))?;
            count += 1;
        }
    }
    Ok(count)
}

/// Fails if a configuration in `folder` is in none of the lists above.
fn check_lists(folder: &Path) -> Result<()> {
    let known: BTreeSet<&str> =
        CONTRIB.iter().chain(&ELASTIC).chain(&CORE).copied().flatten().copied().collect();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        for entry in
            folder.join(&inner).read_dir().with_context(|| format!("listing {}", folder.display()))?
        {
            let name = inner.join(entry?.file_name());
            let text = name.to_string_lossy();
            if folder.join(&name).is_dir() {
                folders.extend((!OTHER_FOLDERS.contains(&&*text)).then_some(name));
            } else if text.ends_with(".yaml") && text != KUSTOMIZATION && !known.contains(&*text) {
                bail!(
                    "otel-config/{text} is not validated: add it to a list in tests/suites/src/backends/configs.rs"
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::check_lists;

    #[test]
    fn a_forgotten_configuration_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("registry")).expect("writable");
        fs::create_dir_all(folder.path().join("kafka")).expect("writable");
        for known in ["minimal.yaml", "kafka/agent.yaml", "registry/other.yaml", "README.md"] {
            fs::write(folder.path().join(known), "").expect("writable");
        }
        check_lists(folder.path()).expect("all are known");
        fs::write(folder.path().join("kafka/third.yaml"), "").expect("writable");
        let error = check_lists(folder.path()).expect_err("it is in no list");
        assert!(error.to_string().contains("kafka/third.yaml"), "{error}");
    }
}
