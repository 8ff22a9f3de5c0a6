//! Tier 1's fallback hook, on `security_sock_graft`, which the accept of every family calls to give the
//! accepted socket its `struct socket`. It reports accepts that no other hook sees (by the kernel, or by
//! threads already in accept at the attach), and stores a sample early for threads whose exit may be missed.

use acceptd_common::{AcceptCall, Counter};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

use crate::{
    accept, count,
    event::{Accept, CallResult, NO_FD},
    in_flight::{self, InFlightAccept},
    offsets::*,
    pending,
    read::{AnyStruct, Probed, Socket, Typed},
    sock::{FileSock, TypedSock},
    syscall, task,
    uapi::{PF_IO_WORKER, PF_WQ_WORKER},
};

/// How long a thread must have waited in accept for [`store_early`] to store its sample.
const LONG_WAIT_NS: u64 = 1_000_000;

/// `sk` becomes the socket of `socket`.
#[inline(always)]
pub fn grafted(copy: u8, sk: TypedSock, socket: Typed<Socket>) {
    // The socket may not have a file yet, or never get one.
    let accepted = FileSock { sk: sk.probed(), inode: socket.probed().inode() };
    if let Some(in_flight) = in_flight::current_at_graft() {
        if !in_flight.must_graft(copy) {
            return;
        }
        // The exit of `do_accept` reports this accept, and knows more.
        if in_flight.set_grafted(sk) {
            return store_early(in_flight, sk, accepted);
        }
    }
    if is_smc_worker() {
        return;
    }
    sk.make_cookie();
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let (syscall, fd) = match syscall::current_accept() {
        Some(call) => call,
        None if is_io_worker() => (AcceptCall::SYSCALL_IO_URING, NO_FD),
        None => (AcceptCall::SYSCALL_KERNEL, NO_FD),
    };
    let (listener, listener_fd) = match listener_for(accepted, fd) {
        listener if listener.exists() => (listener, fd),
        _ => (FileSock::NONE, NO_FD),
    };
    let pending = pending::take(sk);
    if pending.is_reported() {
        // By an earlier copy, for a task that has no memory for its marks.
        return;
    }
    count::add(Counter::Seen);
    if syscall != AcceptCall::SYSCALL_KERNEL || HAS_COPIES.load() != 0 {
        // While the programs are being attached, the exit of a call may be seen whose entry was not.
        pending::mark_reported(sk);
        in_flight::mark_current_reported();
    }
    let call = CallResult { syscall, result: 0, is_fd: false, listener_fd };
    let mut accept = Accept { accepted, listener, verified: true, pending, ..Accept::new(call, now, 0) };
    if accept::begin_connection(&mut accept) {
        accept::submit(&accept);
    }
}

/// Stores the sample of an accept before its exit, if the thread waited long: its exit may be missed (see
/// `in_flight::finish_previous`). At a busy server no thread waits that long, so this costs nothing
/// there. A call that is inside for a shorter time is seldom hit; if it is, it is counted as lost.
#[inline(always)]
fn store_early(in_flight: &mut InFlightAccept, sk: TypedSock, accepted: FileSock) {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    in_flight.grafted_ns = now;
    let waited_ns = now.saturating_sub(in_flight.entered_ns);
    if waited_ns < LONG_WAIT_NS {
        return;
    }
    if !accept::would_pass(accepted.sk, FileSock::from_fd(in_flight.listener_fd).sk) {
        return in_flight.exclude();
    }
    sk.make_cookie();
    let listener_fd = in_flight.listener_fd;
    let listener = listener_for(accepted, listener_fd);
    let call = CallResult { syscall: in_flight.syscall, result: 0, is_fd: false, listener_fd };
    let pending = pending::mark_accepting(sk);
    let accept = Accept { accepted, listener, verified: true, pending, ..Accept::new(call, now, waited_ns) };
    in_flight::store_sample(in_flight, &accept);
}

/// The socket behind the descriptor that the thread accepts on, unless it cannot be the listener of
/// `accepted`: the descriptor may have been replaced since the thread entered accept.
#[inline(always)]
fn listener_for(accepted: FileSock, fd: i32) -> FileSock {
    let listener = FileSock::from_fd(fd);
    if !listener.exists() || !accepted.sk.may_come_from(listener.sk) { FileSock::NONE } else { listener }
}

/// Whether the current task is a worker of SMC, which accepts TCP connections ahead of the server. The
/// server's own accept returns them later, and is the one that is reported.
#[inline(always)]
fn is_smc_worker() -> bool {
    // The beginning of the names of SMC's work queues (net/smc/af_smc.c).
    const NAME: u32 = u32::from_ne_bytes(*b"smc_");
    if TASK_KTHREAD.load() == ABSENT || KTHREAD_DATA.load() == ABSENT || WORKER_DESCRIPTION.load() == ABSENT {
        return false;
    }
    let task = task::current();
    if task.load::<u32>(&TASK_FLAGS) & PF_WQ_WORKER == 0 {
        return false;
    }
    let kthread: Probed<AnyStruct> = task.probed().follow(&TASK_KTHREAD);
    kthread.follow::<AnyStruct>(&KTHREAD_DATA).load::<u32>(&WORKER_DESCRIPTION) == NAME
}

/// Whether the current task is a worker of io_uring, which may have been blocked in accept, too.
#[inline(always)]
fn is_io_worker() -> bool {
    task::current().load::<u32>(&TASK_FLAGS) & PF_IO_WORKER != 0
}
