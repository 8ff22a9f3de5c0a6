//! Builds the eBPF programs (`../ebpf`) with their own pinned nightly, and passes the path of the object file
//! to the crate as `ACCEPTD_EBPF_OBJECT`.

use std::{env, path::Path, process::Command};

fn main() {
    // Read at run time: the checkout may have been moved since this script was compiled.
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let programs = root.join("ebpf");
    for input in
        ["ebpf/src", "ebpf/Cargo.toml", "ebpf/.cargo/config.toml", "ebpf/rust-toolchain.toml", "common/src"]
    {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let toolchain_file = std::fs::read_to_string(programs.join("rust-toolchain.toml")).unwrap_or_default();
    let toolchain = toolchain_file.split('"').nth(1).unwrap_or("nightly");

    // All profiles and targets of the agent share one target folder, because the programs are the same for
    // each.
    let target = root.join("target/ebpf");
    let tools = root.join("target/tools/bin");
    let path = env::var("PATH")
        .map_or_else(|_| tools.display().to_string(), |path| format!("{}:{path}", tools.display()));
    let mut build = Command::new("rustup");
    build.args(["run", toolchain, "cargo", "build", "--release", "--locked"]);
    build.current_dir(&programs).env("PATH", path).env("CARGO_TARGET_DIR", &target);
    // The outer cargo sets these for the host; they would override ebpf/.cargo/config.toml and the pinned
    // toolchain.
    for variable in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ] {
        build.env_remove(variable);
    }
    let built = build.status().is_ok_and(|status| status.success());
    assert!(
        built,
        "the eBPF programs did not build: `cargo xtask setup` installs {toolchain}, rust-src and bpf-linker"
    );
    // A copy, because a later build may replace the original at any time.
    let object = Path::new(&env::var("OUT_DIR").unwrap_or_default()).join("acceptd-ebpf");
    let copied = std::fs::copy(target.join("bpfel-unknown-none/release/acceptd-ebpf"), &object);
    assert!(copied.is_ok(), "the eBPF object is not where it was built: {copied:?}");
    println!("cargo::rustc-env=ACCEPTD_EBPF_OBJECT={}", object.display());
}
