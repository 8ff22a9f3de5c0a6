//! Tests that docker-compose.yml runs the same versions as the suite: the image tags in .env must be the
//! versions of the programs that xtask builds.

use std::{fs, path::PathBuf};

/// A variable of .env, a file that must name the same version, and the text before the version in that file.
const VERSIONS: [(&str, &str, &str); 19] = [
    ("ACCEPTD_IMAGE", "Cargo.toml", "\nversion = \""),
    ("WORKLOAD_IMAGE", "Cargo.toml", "\nversion = \""),
    ("ACCEPTD_IMAGE", "packaging/Dockerfile", "ARG VERSION="),
    ("ACCEPTD_IMAGE", "packaging/kubernetes/base/kustomization.yaml", "- name: acceptd\n    newTag: "),
    ("COLLECTOR_IMAGE", "packaging/kubernetes/base/kustomization.yaml", "was tested with.\n    newTag: "),
    ("COLLECTOR_IMAGE", "otel-config/minimal.yaml", "components works (tested with "),
    ("COLLECTOR_IMAGE", "otel-config/demo.yaml", "(otelcol-contrib; tested with "),
    ("COLLECTOR_IMAGE", "otel-config/victorialogs.yaml", "otelcol-contrib; tested with "),
    ("JAEGER_IMAGE", "tests/suites/src/e2e/report.rs", "(\"Jaeger\", \""),
    ("COLLECTOR_IMAGE", "tests/suites/src/collector.rs", "const VERSION: &str = \""),
    ("COLLECTOR_IMAGE", "tests/collector/components.go", "const version = \""),
    ("COLLECTOR_IMAGE", "tests/collector/go.mod", "exporter/fileexporter v"),
    ("ELASTIC_COLLECTOR_IMAGE", "tests/collector/components_elastic.go", "const version = \""),
    ("ELASTIC_COLLECTOR_IMAGE", "tests/collector/elastic.mod", "exporter/elasticsearchexporter v"),
    // The minor version of the module is that of Jaeger plus 63.
    ("JAEGER_IMAGE", "tests/jaeger/go.mod", "// Jaeger "),
    ("LOKI_IMAGE", "tests/loki/go.mod", "github.com/grafana/loki/v3 v"),
    // Version 0.316 of the module is Prometheus 3.16.
    ("PROMETHEUS_IMAGE", "tests/prometheus/go.mod", "// Prometheus "),
    ("VICTORIALOGS_IMAGE", "tests/victoria-logs/go.mod", "// VictoriaLogs "),
    ("ELASTICSEARCH_IMAGE", "xtask/src/elasticsearch.rs", "const VERSION: &str = \""),
];

fn file(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn image<'a>(env: &'a str, variable: &str) -> &'a str {
    let image = env.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
    image.unwrap_or_else(|| panic!(".env has no {variable}"))
}

fn version_after<'a>(text: &'a str, words: &str) -> &'a str {
    let start = text.find(words).unwrap_or_else(|| panic!("no {words:?}")) + words.len();
    let rest = &text[start..];
    rest.split(|character: char| !(character.is_ascii_digit() || character == '.'))
        .next()
        .unwrap_or_default()
        .trim_end_matches('.')
}

#[test]
fn image_tags_are_the_tested_versions() {
    let env = file(".env");
    for (variable, name, words) in VERSIONS {
        let (_, tag) =
            image(&env, variable).rsplit_once(':').unwrap_or_else(|| panic!("{variable} has no tag"));
        let (text, tag) = (file(name), tag.trim_start_matches('v'));
        let version = version_after(&text, words);
        // Versions in comments have no patch number.
        assert!(
            tag == version || tag.starts_with(&format!("{version}.")),
            "{variable} has the tag {tag}, but {name} has the version {version}"
        );
    }
}

#[test]
fn every_image_is_pinned() {
    let env = file(".env");
    for line in env.lines().filter(|line| !line.starts_with('#') && line.contains("_IMAGE=")) {
        let tag = line.rsplit_once(':').map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag.contains(|character: char| character.is_ascii_digit())), "{line}");
    }
    let default = format!("ARG BASE_IMAGE={}\n", image(&env, "BASE_IMAGE"));
    assert!(
        file("packaging/Dockerfile").contains(&default),
        "the default BASE_IMAGE of packaging/Dockerfile differs from .env"
    );
}
