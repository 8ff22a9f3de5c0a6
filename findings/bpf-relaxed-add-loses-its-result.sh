#!/usr/bin/env bash
# An atomic add with Relaxed ordering, compiled for BPF, does not return the old value.
#
# One would guess: `atomic_xadd` returns the value from before the add with every ordering; the ordering only says
# what other memory accesses may move across it.
# In fact, for `bpfel-unknown-none`, LLVM compiles the Relaxed add to `lock *(u64 *)(r1 + 0) += r0`, the form
# without BPF_FETCH, although the result is used. The function then returns the operand: 1 here, for every call. With
# SeqCst the same source becomes `atomic_fetch_add`, and returns the old value. So sequence numbers that are taken
# with a Relaxed add are all equal. There is no warning.
# Seen with: rustc nightly-2026-10-29 (LLVM 23.1), and nightly-2026-05-20 (LLVM 22.1), target-cpu v3, which has fetch.
# Source: the assembly below; the difference of the instructions: Linux, Documentation/bpf/standardization/
# instruction-set.rst, "Atomic operations" (BPF_FETCH).
set -euo pipefail

readonly TOOLCHAIN=nightly-2026-10-29
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export RUSTUP_HOME=$folder/rustup
rustup toolchain install "$TOOLCHAIN" --profile minimal --component rust-src --no-self-update >"$folder/log" 2>&1 ||
  { cat "$folder/log" >&2; exit 1; }

mkdir -p "$folder/crate/src"
cat >"$folder/crate/Cargo.toml" <<'END'
[package]
name = "adds"
version = "0.0.0"
edition = "2024"
[profile.release]
panic = "abort"
[workspace]
END
cat >"$folder/crate/src/lib.rs" <<'END'
#![no_std]
#![feature(core_intrinsics)]
#![allow(internal_features)]
use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds 1 to a word that programs share, and returns the value before.
#[unsafe(no_mangle)]
pub fn relaxed(word: &mut u64) -> u64 {
    // SAFETY: a reference to a whole word.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, 1) }
}

/// The same with the strongest ordering.
#[unsafe(no_mangle)]
pub fn sequential(word: &mut u64) -> u64 {
    // SAFETY: a reference to a whole word.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, 1) }
}
END

cd "$folder/crate"
RUSTFLAGS="-C target-cpu=v3" rustup run "$TOOLCHAIN" cargo rustc --quiet --release -Z build-std=core \
  --target bpfel-unknown-none -- --emit asm -C codegen-units=1
assembly=$(find target -name 'adds-*.s')
# The instructions of one function.
body() { sed -n "/^$1:/,/exit/p" "$assembly" | grep -E '^\s+(r[0-9]|lock|exit)'; }

rustup run "$TOOLCHAIN" rustc --version --verbose | grep -E '^(rustc|LLVM)'
echo "Relaxed:"
body relaxed
echo "SeqCst:"
body sequential

if body relaxed | grep -q fetch; then
  echo "changed: the Relaxed add fetches now" >&2
  exit 1
fi
body sequential | grep -q 'atomic_fetch_add' || { echo "changed: the SeqCst add does not fetch" >&2; exit 1; }
echo "The Relaxed add returns its operand, not the value before the add."
