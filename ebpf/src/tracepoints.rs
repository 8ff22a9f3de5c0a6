//! The entry points at tracepoints. `inet_sock_set_state` and `tcp_destroy_sock` serve both tiers, `sched_process_exit` tier
//! 1; the others are tier 2's way to see accepts.

use aya_ebpf::{EbpfContext as _, macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    accept::{
        Returned, {self},
    },
    calls, io_uring,
    offsets::*,
    read, related, sock, state,
    syscall::{
        What, {self},
    },
};

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, include/trace/events/sock.h
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: the tracepoint has three arguments, each in a slot of eight bytes; the verifier checks it.
    let (sk, old, new) = unsafe { (read::slot(args, 0), read::slot(args, 1), read::slot(args, 2)) };
    state::changed(sk as *const u8, old as u8, new as u8);
    0
}

/// `TP_PROTO(struct sock *sk)`, include/trace/events/tcp.h
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint has one argument; the verifier checks it.
    let sk = unsafe { read::slot(ctx.as_ptr().cast(), 0) };
    state::destroyed(sk as *const u8);
    0
}

/// `TP_PROTO(struct task_struct *p)`, include/trace/events/sched.h; tier 1 only.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_: BtfTracePointContext) -> i32 {
    calls::exited();
    0
}

/// `TP_PROTO(struct pt_regs *regs, long ret)`, include/trace/events/syscalls.h
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: the tracepoint has two arguments, each in a slot of eight bytes; the verifier checks it.
    let (regs, result) = unsafe { (read::slot(args, 0), read::slot(args, 1)) };
    let Some(call) = syscall::of(regs as *const u8) else { return 0 };
    let result = result as i32;
    match call.what {
        What::Accept(syscall) => {
            let fd = call.arguments[0] as i32;
            let returned = Returned { syscall, result, is_fd: true, listener_fd: fd };
            accept::returned(returned, || sock::of_fd(fd));
        }
        What::Related(operation) => related::returned(&call, operation, result),
    }
    0
}

/// `TP_PROTO(struct pt_regs *regs, long id)`, include/trace/events/syscalls.h; attached only for attempts.
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint has two arguments, each in a slot of eight bytes; the verifier checks it.
    let regs = unsafe { read::slot(ctx.as_ptr().cast(), 0) };
    if let Some(call) = syscall::of(regs as *const u8) {
        related::entered(&call);
    }
    0
}

/// `TP_PROTO(struct io_kiocb *req)`, include/trace/events/io_uring.h; attached only for attempts.
#[btf_tracepoint(function = "io_uring_submit_req")]
pub fn io_uring_submit_req(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint has one argument; the verifier checks it.
    let request = unsafe { read::slot(ctx.as_ptr().cast(), 0) };
    io_uring::submitted(request as *const u8);
    0
}

/// `TP_PROTO(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe *cqe)`, or before 6.10
/// `(void *ctx, void *req, u64 user_data, int res, unsigned cflags, u64 extra1, u64 extra2)`,
/// include/trace/events/io_uring.h
#[btf_tracepoint(function = "io_uring_complete")]
pub fn io_uring_complete(ctx: BtfTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: the tracepoint has these arguments, each in a slot of eight bytes; the verifier checks it, and removes
    // the branch of the other kernels.
    let (request, result, flags) = unsafe {
        let request = read::slot(args, 1) as *const u8;
        if IO_COMPLETE_BY_CQE.load() == 1 {
            let cqe = read::slot(args, 2) as *const u8;
            (request, read::typed(cqe, &IO_CQE_RES), read::typed(cqe, &IO_CQE_FLAGS))
        } else {
            (request, read::slot(args, 3) as i32, read::slot(args, 4) as u32)
        }
    };
    if request.is_null() {
        io_uring::completed_one_of_many(result, flags);
    } else {
        io_uring::completed(request, result);
    }
    0
}

/// `TP_PROTO(void *ctx, unsigned long long user_data, s32 res, u32 cflags, void *ocqe)`,
/// include/trace/events/io_uring.h
#[btf_tracepoint(function = "io_uring_cqe_overflow")]
pub fn io_uring_cqe_overflow(ctx: BtfTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: the tracepoint has these arguments, each in a slot of eight bytes; the verifier checks it.
    let (result, flags) = unsafe { (read::slot(args, 2) as i32, read::slot(args, 3) as u32) };
    io_uring::overflowed(result, flags);
    0
}
