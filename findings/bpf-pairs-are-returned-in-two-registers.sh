#!/usr/bin/env bash
# A BPF function that returns 16 bytes compiles, and returns them in a register that a caller cannot read.
#
# One would guess: a function that cannot be expressed in BPF is refused by the compiler. A call has one return
# register, R0; the kernel's verifier marks R1 to R5 as unreadable after each call. Up to LLVM 22 the compiler said
# "aggregate returns are not supported" of such a function.
# In fact: LLVM 23 compiles a function that returns a pair of words, puts the first word into R0 and the second
# one into R2, and says nothing. A program that calls such a function and is not inlined is refused when it is loaded
# ("R2 !read_ok"). A closure that returns a pair, or an Option of a word, is enough: whether it is inlined is the
# optimizer's decision, so the same source can load today and fail with the next compiler.
# Seen with: rustc nightly-2026-10-29 (LLVM 23.1): compiles; nightly-2026-05-20 (LLVM 22.1): refuses, if the pair is
# returned in registers.
# Source: the assembly below; Linux 6.18, kernel/bpf/verifier.c, clear_caller_saved_regs and check_reg_arg.
# Remedy: `#[inline(always)]` on every function and closure whose result has more than one word.
set -euo pipefail

readonly OLD=nightly-2026-05-20 NEW=nightly-2026-10-29
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export RUSTUP_HOME=$folder/rustup
for toolchain in "$OLD" "$NEW"; do
  rustup toolchain install "$toolchain" --profile minimal --component rust-src --no-self-update >"$folder/log" 2>&1 ||
    { cat "$folder/log" >&2; exit 1; }
done

mkdir -p "$folder/crate/src"
cat >"$folder/crate/Cargo.toml" <<'END'
[package]
name = "pairs"
version = "0.0.0"
edition = "2024"
[profile.release]
panic = "abort"
[workspace]
END
cat >"$folder/crate/src/lib.rs" <<'END'
#![no_std]

/// Two words, as an address and an inode are.
#[unsafe(no_mangle)]
#[inline(never)]
pub fn pair(word: u64) -> (u64, u64) {
    (word + 1, word * 3)
}
END

cd "$folder/crate"
compile() { # toolchain
  rm -rf target
  RUSTFLAGS="-C target-cpu=v3" rustup run "$1" cargo rustc --quiet --release -Z build-std=core \
    --target bpfel-unknown-none -- --emit asm -C codegen-units=1
}

echo "$OLD:"
if compile "$OLD" >"$folder/old" 2>&1; then
  echo "changed: the older compiler accepts the function" >&2
  exit 1
fi
grep -m 1 'aggregate returns' "$folder/old"

echo "$NEW:"
compile "$NEW"
body=$(sed -n '/^pair:/,/exit/p' "$(find target -name 'pairs-*.s')" | grep -E '^\s+(r[0-9]|exit)')
echo "$body"
grep -q 'r2 = ' <<<"$body" || { echo "changed: nothing is returned in R2" >&2; exit 1; }
echo "The second word is returned in R2, which the verifier does not let a caller read."
