#!/usr/bin/env bash
# The Rust crate opentelemetry-proto refuses valid OTLP JSON in which empty members are absent.
#
# One would guess: with the feature `with-serde`, the crate reads every OTLP JSON request. Protobuf's JSON mapping
# lets a writer omit members that have their default value, and the Collector's exporters do.
# In fact, most messages have serde defaults, but EntityRef, ArrayValue and KeyValueList have none. A Resource
# with an entity reference without `schemaUrl`, and an attribute whose value is an empty array or map, are refused
# with "missing field". A log record or a Resource without any member is read.
# Seen with: opentelemetry-proto 0.33.1 (features gen-tonic-messages, logs, with-serde), serde_json 1.
# Source: https://protobuf.dev/programming-guides/json/ (default values may be omitted when written, and must be
# accepted as absent); opentelemetry-proto's build script, which names the messages that get `#[serde(default)]`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'END'
[package]
name = "omitted"
version = "0.0.0"
edition = "2024"
[dependencies]
opentelemetry-proto = { version = "=0.33.1", default-features = false, features = ["gen-tonic-messages", "logs", "with-serde"] }
serde_json = "1"
[workspace]
END
cat >"$folder/src/main.rs" <<'END'
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;

fn main() {
    let resource = |members: &str| format!(r#"{{"resourceLogs":[{{"resource":{{{members}}}}}]}}"#);
    let attribute = |value: &str| resource(&format!(r#""attributes":[{{"key":"a","value":{value}}}]"#));
    for (name, request) in [
        ("a Resource without members", resource("")),
        ("an entity reference without schemaUrl", resource(r#""entityRefs":[{"type":"host","idKeys":["host.id"]}]"#)),
        ("an empty array as a value", attribute(r#"{"arrayValue":{}}"#)),
        ("an empty map as a value", attribute(r#"{"kvlistValue":{}}"#)),
    ] {
        match serde_json::from_str::<ExportLogsServiceRequest>(&request) {
            Ok(_) => println!("{name}: read"),
            Err(error) => println!("{name}: {error}"),
        }
    }
}
END

cargo run --quiet --manifest-path "$folder/Cargo.toml" | tee "$folder/out"
for expected in 'without members: read' 'without schemaUrl: missing field' 'array as a value: missing field' \
  'map as a value: missing field'; do
  grep -q "$expected" "$folder/out" || { echo "changed: not \"$expected\"" >&2; exit 1; }
done
