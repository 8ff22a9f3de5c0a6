//! Which system call it is: decided by ABI first, because the numbers of one ABI mean something else in the
//! other (43 is accept on x86_64 and times on i386; 288 is accept4 and keyctl).

use acceptd_common::{Call, SocketCall};
use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_user, generated::bpf_get_current_task_btf},
};

use crate::{offsets::*, read::typed};

// include/uapi/linux/net.h
const SYS_SOCKET: u64 = 1;
const SYS_BIND: u64 = 2;
const SYS_LISTEN: u64 = 4;
const SYS_ACCEPT: u64 = 5;
const SYS_ACCEPT4: u64 = 18;

/// A system call that acceptd looks at.
#[derive(Clone, Copy)]
pub struct SystemCall {
    pub what: What,
    pub arguments: [u64; 3],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// With [`Call::SYSCALL_ACCEPT`] or [`Call::SYSCALL_ACCEPT4`].
    Accept(u8),
    /// With an operation of [`SocketCall`].
    Related(u8),
}

/// Whether the agent wants to know of this operation.
#[inline(always)]
pub fn is_wanted(operation: u8) -> bool {
    RELATED.load() >> operation & 1 == 1
}

/// The call that `regs` (struct pt_regs) describes, if it is one of those.
#[inline(always)]
pub fn of(regs: *const u8) -> Option<SystemCall> {
    // `int` on arm64, `unsigned long` on x86_64: the lower half of both.
    let number = u64::from(typed::<u32>(regs, &PT_REGS_NR));
    // Cheap refusal of nearly every system call of the host, before anything else is read.
    let native = by_number(number, &NR_ACCEPT, &NR_ACCEPT4, &NR_LISTEN, &NR_BIND, &NR_SOCKET);
    let compat = by_number(
        number,
        &NR_COMPAT_ACCEPT,
        &NR_COMPAT_ACCEPT4,
        &NR_COMPAT_LISTEN,
        &NR_COMPAT_BIND,
        &NR_COMPAT_SOCKET,
    );
    if native.is_none() && compat.is_none() && number != NR_COMPAT_SOCKETCALL.load() {
        return None;
    }
    // SAFETY: the helper has no arguments and always returns the current task.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    let in_compat = u64::from(typed::<u32>(task, &TASK_COMPAT_FLAGS)) & COMPAT_MASK.load() != 0;
    if !in_compat {
        let arguments = [typed(regs, &PT_REGS_ARG0), typed(regs, &PT_REGS_ARG1), typed(regs, &PT_REGS_ARG2)];
        return native.map(|what| SystemCall { what, arguments });
    }
    let arguments = [
        lower(typed(regs, &PT_REGS_COMPAT_ARG0)),
        lower(typed(regs, &PT_REGS_COMPAT_ARG1)),
        lower(typed(regs, &PT_REGS_COMPAT_ARG2)),
    ];
    match compat {
        Some(what) => Some(SystemCall { what, arguments }),
        None if number == NR_COMPAT_SOCKETCALL.load() => socketcall(arguments),
        None => None,
    }
}

#[inline(always)]
fn by_number(
    number: u64,
    accept: &Global<u64>,
    accept4: &Global<u64>,
    listen: &Global<u64>,
    bind: &Global<u64>,
    socket: &Global<u64>,
) -> Option<What> {
    if number == accept4.load() {
        return Some(What::Accept(Call::SYSCALL_ACCEPT4));
    }
    if number == accept.load() {
        return Some(What::Accept(Call::SYSCALL_ACCEPT));
    }
    for (operation, related) in
        [(SocketCall::LISTEN, listen), (SocketCall::BIND, bind), (SocketCall::CREATE, socket)]
    {
        if is_wanted(operation) && number == related.load() {
            return Some(What::Related(operation));
        }
    }
    None
}

/// `socketcall(call, arguments)`: the arguments are 32-bit words in user memory.
#[inline(always)]
fn socketcall([call, at, _]: [u64; 3]) -> Option<SystemCall> {
    let what = match call {
        SYS_ACCEPT => What::Accept(Call::SYSCALL_ACCEPT),
        SYS_ACCEPT4 => What::Accept(Call::SYSCALL_ACCEPT4),
        SYS_LISTEN if is_wanted(SocketCall::LISTEN) => What::Related(SocketCall::LISTEN),
        SYS_BIND if is_wanted(SocketCall::BIND) => What::Related(SocketCall::BIND),
        SYS_SOCKET if is_wanted(SocketCall::CREATE) => What::Related(SocketCall::CREATE),
        _ => return None,
    };
    // Each has two arguments at least; a third that cannot be read is not there.
    Some(SystemCall { what, arguments: [word(at), word(at + 4), word(at + 8)] })
}

#[inline(always)]
fn word(at: u64) -> u64 {
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    u64::from(unsafe { bpf_probe_read_user(at as *const u32) }.unwrap_or(u32::MAX))
}

/// The half of a register that a 32-bit process has.
#[inline(always)]
fn lower(register: u64) -> u64 {
    u64::from(register as u32)
}
