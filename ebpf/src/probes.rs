//! The entry points at functions of modules: kprobes, since fentry reaches only the kernel's own functions.
//! They serve both tiers.

use aya_ebpf::{EbpfContext as _, macros::kprobe, programs::ProbeContext};

use crate::{
    offsets::PT_REGS_ARG1,
    overflow,
    read::{AnyStruct, Probed},
};

/// `sctp_sf_do_5_1D_ce(struct net *net, const struct sctp_endpoint *ep, …)`, net/sctp/sm_statefuns.c
#[kprobe]
pub fn sctp_cookie_echo(ctx: ProbeContext) -> u32 {
    // The second argument of a function is in the same register as that of a system call.
    let registers: Probed<AnyStruct> = Probed::new(ctx.as_ptr().cast());
    overflow::sctp_cookie_arrived(registers.follow(&PT_REGS_ARG1));
    0
}
