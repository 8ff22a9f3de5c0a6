//! acceptd's eBPF programs, tier 2: tracepoints only.
//!
//! This file holds the entry points; their names are the agent's hook table. `inet_sock_set_state` remembers
//! each connection that reaches its listener's accept queue ([`state`]); `sys_exit` recognises the returns of
//! accept ([`syscall`]) and turns each into one sample ([`accept`]).
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only fetching atomic add that exists for bpfel is an intrinsic")]

mod accept;
mod count;
mod maps;
mod offsets;
mod read;
mod sock;
mod state;
mod syscall;
mod task;

use aya_ebpf::{EbpfContext as _, macros::btf_tracepoint, programs::BtfTracePointContext};

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, include/trace/events/sock.h
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: the tracepoint has three arguments, each in a slot of eight bytes; the verifier checks it.
    let (sk, old, new) = unsafe { (read::slot(args, 0), read::slot(args, 1), read::slot(args, 2)) };
    state::changed(sk as *const u8, old as u8, new as u8);
    0
}

/// `TP_PROTO(struct pt_regs *regs, long ret)`, include/trace/events/syscalls.h
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: the tracepoint has two arguments, each in a slot of eight bytes; the verifier checks it.
    let (regs, result) = unsafe { (read::slot(args, 0), read::slot(args, 1)) };
    if let Some(call) = syscall::accept_call(regs as *const u8) {
        accept::returned(&call, result as i64);
    }
    0
}

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
