//! The entry points at tracepoints. `inet_sock_set_state` and `tcp_destroy_sock` serve both tiers,
//! `sched_process_exit` only tier 1. The others capture accepts in tier 2.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};

use crate::{
    accept,
    copies::with_copies,
    event::CallResult,
    in_flight, io_uring,
    offsets::*,
    overflow,
    read::{AnyStruct, Arguments, Probed, Typed},
    related, seccomp,
    sock::{FileSock, TypedSock},
    state,
    syscall::{self, CallKind},
    uapi::EAGAIN,
};

with_copies! {
    /// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, include/trace/events/sock.h
    #[btf_tracepoint(function = "inet_sock_set_state")]
    fn inet_sock_set_state, inet_sock_set_state_2, inet_sock_set_state_3(ctx: BtfTracePointContext, copy) {
        let args = Arguments::from_context(&ctx);
        // SAFETY: the arguments of the tracepoint.
        let (sk, old, new): (TypedSock, _, _) = unsafe { (args.typed(0), args.word(1), args.word(2)) };
        state::changed(copy, sk, old as u8, new as u8);
    }
}

/// `TP_PROTO(struct sock *sk)`, include/trace/events/tcp.h
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the argument of the tracepoint.
    state::destroyed(unsafe { Arguments::from_context(&ctx).typed(0) });
    0
}

/// `TP_PROTO(struct task_struct *p)`, include/trace/events/sched.h; tier 1 only.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_: BtfTracePointContext) -> i32 {
    in_flight::thread_exit();
    0
}

/// `TP_PROTO(struct pt_regs *regs, long ret)`, include/trace/events/syscalls.h
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: the arguments of the tracepoint.
    let (regs, result) = unsafe { (args.typed(0), args.word(1)) };
    syscall_returned(regs, result as i32)
}

/// The same through the perf subsystem, where the kernel may skip the program above: it runs this one with
/// preemption switched off. The record of the tracepoint is a header of eight bytes, the number and the
/// result of the call.
#[tracepoint(category = "raw_syscalls", name = "sys_exit")]
pub fn sys_exit_by_perf(ctx: TracePointContext) -> i32 {
    // SAFETY: the helpers take the current task, and return its `struct pt_regs *` at the entry of the
    // kernel; the record has eight bytes at this offset.
    let (regs, result) = unsafe {
        let regs = Typed::new(bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8);
        (regs, ctx.read_at::<i64>(16).unwrap_or_default())
    };
    syscall_returned(regs, result as i32)
}

/// The system call that `regs` (`struct pt_regs`) describes returned `result`.
#[inline(always)]
fn syscall_returned(regs: Typed<AnyStruct>, result: i32) -> i32 {
    if result == -EAGAIN
        && let Some([fd, address, length]) = syscall::connect_arguments(regs)
    {
        overflow::connect_failed(fd as i32, address, length as u32);
        return 0;
    }
    let Some(call) = syscall::from_registers(regs) else { return 0 };
    if seccomp::may_have_refused(regs, result) {
        seccomp::count_refused(call.kind);
        return 0;
    }
    match call.kind {
        CallKind::Accept(syscall) => {
            let fd = call.arguments[0] as i32;
            accept::call_returned(
                CallResult { syscall, result, is_fd: true, listener_fd: fd },
                #[inline(always)]
                || FileSock::from_fd(fd),
            );
        }
        CallKind::Related(operation) => related::syscall_returned(&call, operation, result),
    }
    0
}

/// `TP_PROTO(struct pt_regs *regs, long id)`, include/trace/events/syscalls.h; attached only for attempts.
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the first argument of the tracepoint.
    let regs = unsafe { Arguments::from_context(&ctx).typed(0) };
    if let Some(call) = syscall::from_registers(regs) {
        related::accept_entered(&call);
    }
    0
}

/// `TP_PROTO(struct io_kiocb *req)`, include/trace/events/io_uring.h; attached only for attempts.
#[btf_tracepoint(function = "io_uring_submit_req")]
pub fn io_uring_submit_req(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the argument of the tracepoint.
    let request: Typed<AnyStruct> = unsafe { Arguments::from_context(&ctx).typed(0) };
    io_uring::request_submitted(request.probed());
    0
}

/// `TP_PROTO(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe *cqe)`, or before 6.10
/// `(void *ctx, void *req, u64 user_data, int res, unsigned cflags, u64 extra1, u64 extra2)`,
/// include/trace/events/io_uring.h
#[btf_tracepoint(function = "io_uring_complete")]
pub fn io_uring_complete(ctx: BtfTracePointContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: the arguments of the tracepoint. The verifier removes the branch of the other kernels.
    let (ring, request, result, flags) = unsafe {
        let ring: io_uring::Ring = Probed::new(args.word(0) as *const u8);
        let request: io_uring::Request = Probed::new(args.word(1) as *const u8);
        if IO_COMPLETE_BY_CQE.load() == 1 {
            let cqe: Typed<AnyStruct> = args.typed(2);
            (ring, request, cqe.load(&IO_CQE_RES), cqe.load(&IO_CQE_FLAGS))
        } else {
            (ring, request, args.word(3) as i32, args.word(4) as u32)
        }
    };
    if request.is_null() {
        io_uring::multishot_completed(ring, result, flags);
    } else {
        io_uring::request_completed(ring, request, result);
    }
    0
}

/// `TP_PROTO(void *ctx, unsigned long long user_data, s32 res, u32 cflags, void *ocqe)`,
/// include/trace/events/io_uring.h
#[btf_tracepoint(function = "io_uring_cqe_overflow")]
pub fn io_uring_cqe_overflow(ctx: BtfTracePointContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: arguments of the tracepoint.
    let (ring, result, flags) =
        unsafe { (Probed::new(args.word(0) as *const u8), args.word(2) as i32, args.word(3) as u32) };
    io_uring::completion_overflowed(ring, result, flags);
    0
}
