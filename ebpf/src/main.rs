//! acceptd's eBPF programs.
//!
//! The entry points are in [`trampolines`] (tier 1), [`tracepoints`] (tier 2, and what both tiers need),
//! [`probes`] (functions and tracepoints of modules) and [`iterators`]; their names are the agent's hook
//! table (collector-bridge/src/bpf/hooks.rs).
//!
//! `inet_sock_set_state` remembers each connection that reaches its listener's accept queue ([`state`],
//! [`pending`]). In tier 1, `do_accept` hands the kernel's own result to [`in_flight`]. In tier 2, `sys_exit`
//! recognises the returns of accept ([`syscall`]), and `io_uring_complete` the completions of accept requests
//! ([`io_uring`]). In either tier, [`accept`] decides on the facts of an [`event`], and [`send`] makes one
//! sample of it. The iterators [`survey`] what exists already.
//!
//! Functions are inlined unless their comment says otherwise; a closure that is called needs
//! `#[inline(always)]` for that. LLVM must not make a function of its own that returns more than one
//! register: the verifier knows only R0.
//!
//! Each map is private to the file that owns it. ARCHITECTURE.md lists all maps with their sizes.
#![no_std]
#![no_main]
#![feature(core_intrinsics, stmt_expr_attributes)]
#![expect(internal_features, reason = "the only fetching atomic add that exists for bpfel is an intrinsic")]

mod accept;
mod budget;
mod closing;
mod connections;
mod copies;
mod count;
mod environment;
mod event;
mod failure;
mod file;
mod filter;
mod in_flight;
mod io_uring;
mod iterators;
mod offsets;
mod overflow;
mod own;
mod peers;
mod pending;
mod probes;
mod read;
mod related;
mod seccomp;
mod send;
mod sock;
mod sock_graft;
mod state;
mod storage;
mod survey;
mod syscall;
mod task;
mod traced;
mod tracepoints;
mod trampolines;
mod tuple;
mod uapi;
mod vsock;

/// Uses the result of a subprogram that is not inlined. The verifier wants a subprogram to return a number;
/// if no caller used the result, LLVM would leave a pointer in the register.
#[inline(always)]
fn use_result(result: u32) {
    core::hint::black_box(result);
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could loop here.
    loop {}
}

// The kernel lets only GPL-compatible programs call some of the helpers. The source is also Apache-2.0 OR
// MIT.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
