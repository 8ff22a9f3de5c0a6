//! Tier 1's backstop: an accepted socket gets its `struct socket` (`security_sock_graft`, called by every family's accept).
//! Seen there and nowhere else: accepts by the kernel itself, and by threads that were in accept already when the programs
//! were attached.

use acceptd_common::{Call, Counter};
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_ktime_get_boot_ns};

use crate::{
    accept::{
        Accept, NO_FD, Returned, {self},
    },
    calls::{
        Ongoing, {self},
    },
    count,
    offsets::*,
    pending,
    read::typed,
    sock::{
        Socket, {self},
    },
};

/// How long somebody has to wait in accept for the backstop to keep what it knows.
const LONG_NS: u64 = 1_000_000;

/// `PF_IO_WORKER`, include/linux/sched.h
const IO_WORKER: u32 = 0x10;

/// `sk` becomes that of `socket` (struct socket).
#[inline(always)]
pub fn grafted(sk: *const u8, socket: *const u8) {
    // The socket may have no file yet, or none ever.
    let accepted = Socket { sk, inode: sock::inode_of_socket(socket) };
    // `do_accept` tells of this one, when it knows more.
    if let Some(ongoing) = calls::grafted() {
        return keep_in_case(ongoing, accepted);
    }
    count::add(Counter::Seen);
    sock::make_cookie(sk);
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let (syscall, fd) = match calls::by_syscall() {
        Some(by_syscall) => by_syscall,
        None if is_io_worker() => (Call::SYSCALL_IO_URING, NO_FD),
        None => (Call::SYSCALL_KERNEL, NO_FD),
    };
    // What the descriptor is now need not be what it was when the thread entered accept.
    let mut listener = sock::of_fd(fd);
    let mut listener_fd = fd;
    if !listener.exists() || !accepted.may_be_of(listener) {
        (listener, listener_fd) = (Socket::NONE, NO_FD);
    }
    let pending = pending::take(accepted);
    if syscall != Call::SYSCALL_KERNEL {
        // Between the attachments of the programs a call may be seen to return that was not seen to begin.
        pending::tell(accepted);
        calls::told();
    }
    let returned = Returned { syscall, result: 0, is_fd: false, listener_fd };
    let mut accept = Accept { accepted, listener, verified: true, pending, ..Accept::new(returned, now, 0) };
    if accept.begins() {
        accept::submit(&accept);
    }
}

/// Who waited for long may not be seen to return (see `calls::send_unended`): what is known by now is kept. At a busy server
/// nobody waits so long, so that this costs nothing there; a call that is inside for less time is seldom hit, and is counted
/// as lost if it is.
#[inline(always)]
fn keep_in_case(ongoing: &mut Ongoing, accepted: Socket) {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    ongoing.grafted_ns = now;
    let waited_ns = now.saturating_sub(ongoing.began_ns);
    if waited_ns < LONG_NS {
        return;
    }
    if !accept::passes_silently(accepted) {
        return ongoing.leave_out();
    }
    sock::make_cookie(accepted.sk);
    let listener_fd = ongoing.listener_fd;
    let mut listener = sock::of_fd(listener_fd);
    if !listener.exists() || !accepted.may_be_of(listener) {
        listener = Socket::NONE;
    }
    let returned = Returned { syscall: ongoing.syscall, result: 0, is_fd: false, listener_fd };
    let pending = pending::graft(accepted);
    let accept =
        Accept { accepted, listener, verified: true, pending, ..Accept::new(returned, now, waited_ns) };
    calls::keep(ongoing, &accept);
}

/// A worker of io_uring may have been blocked in accept, too.
#[inline(always)]
fn is_io_worker() -> bool {
    // SAFETY: the helper has no arguments and always returns the current task.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    typed::<u32>(task, &TASK_FLAGS) & IO_WORKER != 0
}
