//! acceptd's eBPF programs.
//!
//! The entry points are in [`trampolines`] (tier 1), [`tracepoints`] (tier 2, and what both need) and [`iterators`];
//! their names are the agent's hook table. `inet_sock_set_state` remembers each connection that reaches its listener's
//! accept queue ([`state`], [`pending`]). In tier 1 `do_accept` hands the kernel's own result to [`calls`]; in tier 2
//! `sys_exit` recognises the returns of accept ([`syscall`]) and `io_uring_complete` those that a ring was asked for
//! ([`io_uring`]). Either way [`accept`] decides, and [`send`] makes one sample of it. The iterators look at what is there
//! already ([`survey`]).
#![no_std]
#![no_main]
#![feature(core_intrinsics, stmt_expr_attributes)]
#![expect(internal_features, reason = "the only fetching atomic add that exists for bpfel is an intrinsic")]

mod accept;
mod budget;
mod calls;
mod count;
mod failure;
mod filter;
mod grafted;
mod io_uring;
mod iterators;
mod lives;
mod maps;
mod offsets;
mod open;
mod peers;
mod pending;
mod read;
mod related;
mod send;
mod sock;
mod state;
mod storage;
mod survey;
mod syscall;
mod task;
mod tracepoints;
mod trampolines;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could loop here.
    loop {}
}

// The helpers that this object calls are for GPL-compatible programs only; the source is also Apache-2.0 OR MIT.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
