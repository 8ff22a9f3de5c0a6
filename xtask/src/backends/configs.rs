//! Every Collector configuration of otel-config/, read by the Collector that it is for.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{collector, workspace::Workspace};

/// For one machine; of several files each goes on top of the one before.
const CORE: [&[&str]; 5] = [
    &["minimal.yaml"],
    &["demo.yaml", "demo/none.yaml"],
    &["demo.yaml", "demo/elastic.yaml"],
    &["demo.yaml", "demo/victorialogs.yaml"],
    &["victorialogs.yaml"],
];
/// For many.
const CONTRIB: [&[&str]; 6] = [
    &["kubernetes.yaml"],
    &["kubernetes.yaml", "../packaging/kubernetes/base/backend.yaml"],
    &["gateway/agent.yaml"],
    &["gateway/gateway.yaml"],
    &["kafka/agent.yaml"],
    &["kafka/gateway.yaml"],
];
/// What needs the one with Elasticsearch's exporter.
const ELASTIC: [&[&str]; 1] = [&["elastic.yaml"]];

/// Folders of otel-config/ that are not the Collector's.
const OTHERS: [&str; 5] = ["elastic", "jaeger", "loki", "prometheus", "registry"];
/// Kubernetes' own.
const KUSTOMIZATION: &str = "kustomization.yaml";

/// Has all of them read, or without `all` those that take no more than the quick suite's Collectors; returns how many.
pub(super) fn validate(workspace: &Workspace, all: bool) -> Result<usize> {
    complete(&workspace.path("otel-config"))?;
    let mut of = vec![
        (collector::build(workspace)?, CORE.as_slice()),
        (collector::build_elastic(workspace)?, &ELASTIC),
    ];
    if all {
        of.push((collector::build_contrib(workspace)?, &CONTRIB));
    }
    let mut count = 0;
    for (binary, configs) in of {
        for files in configs {
            let paths: Vec<PathBuf> =
                files.iter().map(|file| workspace.path("otel-config").join(file)).collect();
            collector::validate(&binary, &paths)
                .with_context(|| format!("otel-config/{}", files.join(" and ")))?;
            count += 1;
        }
    }
    Ok(count)
}

/// Fails for a configuration that is in none of the lists.
fn complete(folder: &Path) -> Result<()> {
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
                folders.extend((!OTHERS.contains(&&*text)).then_some(name));
            } else if text.ends_with(".yaml") && text != KUSTOMIZATION && !known.contains(&*text) {
                bail!("otel-config/{text} is checked by nothing: add it to configs.rs");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::complete;

    #[test]
    fn a_forgotten_configuration_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("registry")).expect("writable");
        fs::create_dir_all(folder.path().join("kafka")).expect("writable");
        for known in ["minimal.yaml", "kafka/agent.yaml", "registry/other.yaml", "README.md"] {
            fs::write(folder.path().join(known), "").expect("writable");
        }
        complete(folder.path()).expect("all are known");
        fs::write(folder.path().join("kafka/third.yaml"), "").expect("writable");
        let error = complete(folder.path()).expect_err("it is in no list");
        assert!(error.to_string().contains("kafka/third.yaml"), "{error}");
    }
}
