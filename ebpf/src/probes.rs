//! The entry points at functions and tracepoints of modules: kprobes and raw tracepoints, since fentry and
//! BTF tracepoints reach only the kernel's own. They serve both tiers.

use aya_ebpf::{
    EbpfContext as _,
    macros::{kprobe, kretprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};

use crate::{
    offsets::{PT_REGS_ARG1, PT_REGS_RESULT},
    overflow,
    read::{AnyStruct, Arguments, Probed},
    vsock,
};

/// `sctp_sf_do_5_1D_ce(struct net *net, const struct sctp_endpoint *ep, …)`, net/sctp/sm_statefuns.c
#[kprobe]
pub fn sctp_cookie_echo(ctx: ProbeContext) -> u32 {
    // The second argument of a function is in the same register as that of a system call.
    let registers: Probed<AnyStruct> = Probed::new(ctx.as_ptr().cast());
    overflow::sctp_cookie_arrived(registers.follow(&PT_REGS_ARG1));
    0
}

/// `virtio_transport_recv_pkt(src_cid, src_port, dst_cid, dst_port, len, u16 type, u16 op, …)`,
/// include/trace/events/vsock_virtio_transport_common.h
#[raw_tracepoint]
pub fn vsock_receive(ctx: RawTracePointContext) -> i32 {
    let arguments = Arguments::from_context(&ctx);
    // SAFETY: the tracepoint has ten arguments.
    let (packet_type, operation) = unsafe { (arguments.word(5), arguments.word(6)) };
    vsock::arrived(packet_type as u16, operation as u16);
    0
}

/// `struct sock *vsock_find_bound_socket(struct sockaddr_vm *addr)`, or with a network namespace
/// `vsock_find_bound_socket_net`, net/vmw_vsock/af_vsock.c
#[kretprobe]
pub fn vsock_find_bound(ctx: RetProbeContext) -> u32 {
    let registers: Probed<AnyStruct> = Probed::new(ctx.as_ptr().cast());
    vsock::found(registers.follow(&PT_REGS_RESULT));
    0
}

/// `struct sock *vsock_create_connected(struct sock *parent)`, net/vmw_vsock/af_vsock.c
#[kprobe]
pub fn vsock_create_child(_: ProbeContext) -> u32 {
    vsock::created();
    0
}

/// `virtio_transport_alloc_pkt(src_cid, src_port, dst_cid, dst_port, len, u16 type, u16 op, …)`,
/// include/trace/events/vsock_virtio_transport_common.h
#[raw_tracepoint]
pub fn vsock_alloc_packet(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the tracepoint has at least eight arguments.
    vsock::answers(unsafe { Arguments::from_context(&ctx).word(6) } as u16);
    0
}
