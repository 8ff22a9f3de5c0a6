//! Which system call returned: decided by ABI first, because the numbers of one ABI mean something else in the
//! other (43 is accept on x86_64 and times on i386; 288 is accept4 and keyctl).

use acceptd_common::InetAccept;
use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_get_current_task_btf};

use crate::{offsets::*, read::typed};

/// `SYS_ACCEPT` and `SYS_ACCEPT4`, include/uapi/linux/net.h
const SOCKETCALL_ACCEPT: u64 = 5;
const SOCKETCALL_ACCEPT4: u64 = 18;

/// A call of accept or accept4.
pub struct AcceptCall {
    /// [`InetAccept::SYSCALL_ACCEPT`] or [`InetAccept::SYSCALL_ACCEPT4`].
    pub syscall: u8,
    /// First argument: the listening socket's descriptor.
    pub listener_fd: i32,
}

/// The call that `regs` (struct pt_regs) describes, if it is an accept.
#[inline(always)]
pub fn accept_call(regs: *const u8) -> Option<AcceptCall> {
    let number: u64 = typed(regs, &PT_REGS_NR);
    // Cheap refusal of nearly every system call of the host, before anything else is read.
    let native = number == NR_ACCEPT.load() || number == NR_ACCEPT4.load();
    let compat = number == NR_COMPAT_ACCEPT.load()
        || number == NR_COMPAT_ACCEPT4.load()
        || number == NR_COMPAT_SOCKETCALL.load();
    if !native && !compat {
        return None;
    }
    // SAFETY: the helper has no arguments and always returns the current task.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    let in_compat = u64::from(typed::<u32>(task, &TASK_COMPAT_FLAGS)) & COMPAT_MASK.load() != 0;
    if in_compat { compat_call(regs, number) } else { native_call(regs, number) }
}

#[inline(always)]
fn native_call(regs: *const u8, number: u64) -> Option<AcceptCall> {
    let syscall = if number == NR_ACCEPT4.load() {
        InetAccept::SYSCALL_ACCEPT4
    } else if number == NR_ACCEPT.load() {
        InetAccept::SYSCALL_ACCEPT
    } else {
        return None;
    };
    Some(AcceptCall { syscall, listener_fd: typed::<u64>(regs, &PT_REGS_ARG0) as i32 })
}

#[inline(always)]
fn compat_call(regs: *const u8, number: u64) -> Option<AcceptCall> {
    let first: u64 = typed(regs, &PT_REGS_COMPAT_ARG0);
    if number == NR_COMPAT_ACCEPT4.load() {
        return Some(AcceptCall { syscall: InetAccept::SYSCALL_ACCEPT4, listener_fd: first as i32 });
    }
    if number == NR_COMPAT_ACCEPT.load() {
        return Some(AcceptCall { syscall: InetAccept::SYSCALL_ACCEPT, listener_fd: first as i32 });
    }
    if number != NR_COMPAT_SOCKETCALL.load() {
        return None;
    }
    let syscall = match first {
        SOCKETCALL_ACCEPT => InetAccept::SYSCALL_ACCEPT,
        SOCKETCALL_ACCEPT4 => InetAccept::SYSCALL_ACCEPT4,
        _ => return None,
    };
    let arguments: u64 = typed(regs, &PT_REGS_COMPAT_ARG1);
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    let listener_fd = unsafe { bpf_probe_read_user(arguments as u32 as u64 as *const i32) }.unwrap_or(-1);
    Some(AcceptCall { syscall, listener_fd })
}
