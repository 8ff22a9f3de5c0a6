//! Which system call a thread is in. The ABI is decided first, because a number means different calls in
//! different ABIs (43 is accept on x86_64 and times on i386; 288 is accept4 on x86_64 and keyctl on i386).

use acceptd_common::{AcceptCall, Counter, SocketCall, limits::BLOCKED_THREADS};
use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_user,
        generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    macros::map,
    maps::HashMap,
};

use crate::{
    count,
    offsets::*,
    read::{AnyStruct, Typed},
    task,
    uapi::{BPF_ANY, SYS_ACCEPT, SYS_ACCEPT4, SYS_BIND, SYS_LISTEN, SYS_SOCKET},
};

/// Tier 2: thread → boot time at which it entered accept. Used only when attempts are captured.
#[map]
static ACCEPT_ENTRIES: HashMap<u64, u64> = HashMap::with_max_entries(BLOCKED_THREADS, 0);

/// A system call that acceptd captures.
#[derive(Clone, Copy)]
pub struct SystemCall {
    pub kind: CallKind,
    pub arguments: [u64; 3],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// With [`AcceptCall::SYSCALL_ACCEPT`] or [`AcceptCall::SYSCALL_ACCEPT4`].
    Accept(u8),
    /// With an operation of [`SocketCall`].
    Related(u8),
}

/// Whether the configuration asks for this operation of [`SocketCall`].
#[inline(always)]
pub fn is_captured(operation: u8) -> bool {
    RELATED.load() >> operation & 1 == 1
}

/// The system call that the current thread is in, if acceptd captures it.
#[inline(always)]
pub fn current() -> Option<SystemCall> {
    // SAFETY: the helpers take the current task, and return its `struct pt_regs *` at the entry of the
    // kernel.
    from_registers(unsafe { Typed::new(bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8) })
}

/// If the current thread is in accept or accept4: which of them (`AcceptCall::SYSCALL_…`), and the descriptor
/// that it accepts on.
#[inline(always)]
pub fn current_accept() -> Option<(u8, i32)> {
    match current()? {
        SystemCall { kind: CallKind::Accept(syscall), arguments } => Some((syscall, arguments[0] as i32)),
        SystemCall { kind: CallKind::Related(_), .. } => None,
    }
}

/// The system call that `regs` (`struct pt_regs`) describes, if acceptd captures it.
#[inline(always)]
pub fn from_registers(regs: Typed<AnyStruct>) -> Option<SystemCall> {
    // `int` on arm64, `unsigned long` on x86_64: the lower half of both.
    let number = u64::from(regs.load::<u32>(&PT_REGS_NR));
    // Nearly every system call of the host leaves here, before anything else is read.
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
    let in_compat = u64::from(task::current().load::<u32>(&TASK_COMPAT_FLAGS)) & COMPAT_MASK.load() != 0;
    if !in_compat {
        let arguments = [regs.load(&PT_REGS_ARG0), regs.load(&PT_REGS_ARG1), regs.load(&PT_REGS_ARG2)];
        return native.map(|kind| SystemCall { kind, arguments });
    }
    let arguments = [
        lower_half(regs.load(&PT_REGS_COMPAT_ARG0)),
        lower_half(regs.load(&PT_REGS_COMPAT_ARG1)),
        lower_half(regs.load(&PT_REGS_COMPAT_ARG2)),
    ];
    match compat {
        Some(kind) => Some(SystemCall { kind, arguments }),
        None if number == NR_COMPAT_SOCKETCALL.load() => from_socketcall(arguments),
        None => None,
    }
}

/// The arguments of connect, if `regs` (`struct pt_regs`) describes that call. A connect through i386's
/// socketcall is not seen.
#[inline(always)]
pub fn connect_arguments(regs: Typed<AnyStruct>) -> Option<[u64; 3]> {
    let number = u64::from(regs.load::<u32>(&PT_REGS_NR));
    if number != NR_CONNECT.load() && number != NR_COMPAT_CONNECT.load() {
        return None;
    }
    let in_compat = u64::from(task::current().load::<u32>(&TASK_COMPAT_FLAGS)) & COMPAT_MASK.load() != 0;
    if in_compat && number == NR_COMPAT_CONNECT.load() {
        return Some([
            lower_half(regs.load(&PT_REGS_COMPAT_ARG0)),
            lower_half(regs.load(&PT_REGS_COMPAT_ARG1)),
            lower_half(regs.load(&PT_REGS_COMPAT_ARG2)),
        ]);
    }
    let is_native = !in_compat && number == NR_CONNECT.load();
    is_native.then(|| [regs.load(&PT_REGS_ARG0), regs.load(&PT_REGS_ARG1), regs.load(&PT_REGS_ARG2)])
}

#[inline(always)]
fn by_number(
    number: u64,
    accept: &Global<u64>,
    accept4: &Global<u64>,
    listen: &Global<u64>,
    bind: &Global<u64>,
    socket: &Global<u64>,
) -> Option<CallKind> {
    if number == accept4.load() {
        return Some(CallKind::Accept(AcceptCall::SYSCALL_ACCEPT4));
    }
    if number == accept.load() {
        return Some(CallKind::Accept(AcceptCall::SYSCALL_ACCEPT));
    }
    for (operation, related) in
        [(SocketCall::LISTEN, listen), (SocketCall::BIND, bind), (SocketCall::CREATE, socket)]
    {
        if is_captured(operation) && number == related.load() {
            return Some(CallKind::Related(operation));
        }
    }
    None
}

/// `socketcall(call, arguments)`: the arguments are 32-bit words in user memory.
#[inline(always)]
fn from_socketcall([call, arguments, _]: [u64; 3]) -> Option<SystemCall> {
    let kind = match call {
        SYS_ACCEPT => CallKind::Accept(AcceptCall::SYSCALL_ACCEPT),
        SYS_ACCEPT4 => CallKind::Accept(AcceptCall::SYSCALL_ACCEPT4),
        SYS_LISTEN if is_captured(SocketCall::LISTEN) => CallKind::Related(SocketCall::LISTEN),
        SYS_BIND if is_captured(SocketCall::BIND) => CallKind::Related(SocketCall::BIND),
        SYS_SOCKET if is_captured(SocketCall::CREATE) => CallKind::Related(SocketCall::CREATE),
        _ => return None,
    };
    // Each of these calls takes at least two arguments. The word of the third may be unreadable only if the
    // call takes two, and it is not used then.
    let arguments = [user_word(arguments), user_word(arguments + 4), user_word(arguments + 8)];
    Some(SystemCall { kind, arguments })
}

#[inline(always)]
fn user_word(address: u64) -> u64 {
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    u64::from(unsafe { bpf_probe_read_user(address as *const u32) }.unwrap_or(u32::MAX))
}

/// The half of a register that a 32-bit process has.
#[inline(always)]
fn lower_half(register: u64) -> u64 {
    u64::from(register as u32)
}

/// Tier 2: the current thread entered accept at `now` (boot clock, ns).
#[inline(always)]
pub fn remember_accept_entry(now: u64) {
    if ACCEPT_ENTRIES.insert(&bpf_get_current_pid_tgid(), &now, BPF_ANY).is_err() {
        count::add(Counter::BlockedTimesFull);
    }
}

/// Tier 2: how long the current thread was in accept, in nanoseconds; 0 if its entry was not seen, or if
/// attempts are not captured.
#[inline(always)]
pub fn take_blocked_ns(now: u64) -> u64 {
    if !is_captured(SocketCall::ATTEMPT) {
        return 0;
    }
    let thread = bpf_get_current_pid_tgid();
    let Some(entered) = ACCEPT_ENTRIES.get_ptr(&thread) else { return 0 };
    // SAFETY: a non-null map value.
    let blocked_ns = now.saturating_sub(unsafe { *entered });
    let _ = ACCEPT_ENTRIES.remove(&thread);
    blocked_ns
}
