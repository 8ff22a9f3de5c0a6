#!/usr/bin/env bash
# A task runner that is started by `cargo run` and calls `cargo build` compiles ring again, C code and all.
#
# One would guess: a dependency is compiled once; `cargo build` from a shell and from a program that `cargo run`
# started (the usual xtask pattern) share the target folder, so the second one finds everything fresh.
# In fact, ring's build script names CARGO_MANIFEST_DIR and CARGO_PKG_* in `rerun-if-env-changed`. `cargo run`
# sets these for the program that it starts, and the inner cargo inherits them: the variables differ from those of a
# build from a shell, so ring and everything that depends on it is compiled again, at each switch between the two.
# Seen with: ring 0.17.14, cargo 1.95.0 and 1.99.1.
# Source: ring 0.17.14, build.rs (the loop over its list of environment variables).
# Remedy: the task runner removes CARGO_MANIFEST_DIR and CARGO_PKG_* from the environment of the cargo that it calls.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'END'
[package]
name = "task"
version = "0.0.0"
edition = "2024"
[dependencies]
ring = "=0.17.14"
[workspace]
END
cat >"$folder/src/main.rs" <<'END'
fn main() {
    let status = std::process::Command::new("cargo").args(["build", "--verbose"]).status();
    assert!(status.is_ok_and(|status| status.success()));
}
END

cd "$folder"
cargo build --quiet
echo "cargo build, for the second time:"
cargo build --verbose 2>&1 | grep -E '(Fresh|Dirty|Compiling) ring' | tee first
echo "cargo build, called by a program that cargo run started:"
cargo run --quiet 2>&1 | grep -E '(Fresh|Dirty|Compiling) ring' | tee second

grep -q Fresh first || { echo "changed: ring is not fresh in the second build from a shell" >&2; exit 1; }
grep -q Dirty second || { echo "changed: ring is fresh below cargo run" >&2; exit 1; }
