//! Calls beside accept: listen, bind, socket, and the begin of accept.

use acceptd_common::{Call, Counter, SocketCall, UnixName};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns, bpf_probe_read_user, bpf_probe_read_user_buf,
};

use crate::{
    accept::by_agent,
    calls, count, filter,
    maps::ENTERED,
    offsets::{RECORD_SELF, TIER},
    send::send,
    sock::{
        AF_INET, AF_INET6, AF_UNIX, Socket, {self},
    },
    syscall::{SystemCall, What},
    task,
};

/// `SOCK_CLOEXEC` and `SOCK_NONBLOCK` are or-ed to the type (`SOCK_TYPE_MASK`, include/linux/net.h).
const SOCK_TYPE_MASK: u64 = 0xf;

/// A system call that is an operation of `SocketCall` returned `result`.
#[inline(always)]
pub fn returned(call: &SystemCall, operation: u8, result: i32) {
    if operation == SocketCall::CREATE {
        return created(call.arguments[0] as u16, call.arguments[1], result);
    }
    let fd = call.arguments[0] as i32;
    let socket = sock::of_fd(fd);
    if !socket.exists() {
        return;
    }
    used(operation, socket, fd, call.arguments, result);
}

/// A request of io_uring on `socket` is complete.
#[inline(always)]
pub fn completed(operation: u8, socket: Socket, result: i32) {
    used(operation, socket, -1, [0; 3], result);
}

/// Tier 1: as [`completed`], of any caller. System calls are told by their own hooks, which know the descriptor.
#[inline(always)]
pub fn happened(operation: u8, socket: *const u8, result: i32) {
    let by_syscall = calls::current().is_some_and(|call| call.what == What::Related(operation));
    let socket = sock::of_typed_socket(socket);
    if !by_syscall && socket.exists() {
        completed(operation, socket, result);
    }
}

/// Tier 1: accept begins on `socket`, which the verifier knows.
#[inline(always)]
pub fn accept_begins(socket: *const u8) {
    let socket = sock::of_typed_socket(socket);
    if !socket.exists() {
        return;
    }
    sock::make_cookie(socket.sk);
    let (syscall, fd) = calls::by_syscall().unwrap_or((Call::SYSCALL_IO_URING, -1));
    attempted(socket, fd, syscall);
}

/// Tier 2: accept begins. The time is kept, for how long it takes.
#[inline(always)]
pub fn entered(call: &SystemCall) {
    let What::Accept(syscall) = call.what else { return };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if ENTERED.insert(&bpf_get_current_pid_tgid(), &now, 0).is_err() {
        count::add(Counter::BlockedFull);
    }
    let fd = call.arguments[0] as i32;
    let socket = sock::of_fd(fd);
    if socket.exists() {
        attempted(socket, fd, syscall);
    }
}

/// An accept on `socket` begins.
#[inline(always)]
pub fn attempted(socket: Socket, fd: i32, syscall: u8) {
    let operation = SocketCall::ATTEMPT;
    tell(&Operation { syscall, fd, ..Operation::new(operation, socket, 0) });
}

#[inline(always)]
fn used(operation: u8, socket: Socket, fd: i32, arguments: [u64; 3], result: i32) {
    tell(&Operation { fd, arguments, ..Operation::new(operation, socket, result) });
}

/// A new socket, or none: `type_and_flags` is the second argument of socket.
#[inline(always)]
fn created(family: u16, type_and_flags: u64, result: i32) {
    let socket_type = (type_and_flags & SOCK_TYPE_MASK) as u16;
    let operation = Operation::new(SocketCall::CREATE, sock::of_fd(result), result);
    tell(&Operation { family, socket_type, fd: result, ..operation });
}

/// What a hook knows of one call.
struct Operation {
    /// One of [`SocketCall`].
    operation: u8,
    /// One of `Call::SYSCALL_…`, of an attempt.
    syscall: u8,
    family: u16,
    socket_type: u16,
    socket: Socket,
    fd: i32,
    result: i32,
    arguments: [u64; 3],
}

impl Operation {
    #[inline(always)]
    fn new(operation: u8, socket: Socket, result: i32) -> Self {
        let (family, socket_type) = (socket.family(), socket.socket_type());
        Self { operation, syscall: 0, family, socket_type, socket, fd: -1, result, arguments: [0; 3] }
    }
}

#[inline(always)]
fn tell(operation: &Operation) {
    // See `accept::submit`.
    core::hint::black_box(tell_once(operation));
}

/// Counts the call, and sends it if it is to be sent. Sockets that cannot be accepted on are no events.
#[inline(never)]
fn tell_once(call: &Operation) -> u32 {
    if !sock::is_known(call.family) || !sock::can_listen(call.socket_type) {
        return 0;
    }
    count::add(Counter::Other);
    if by_agent() && RECORD_SELF.load() == 0 {
        count::add(Counter::SelfAccept);
        return 0;
    }
    let passes = if call.socket.exists() {
        filter::passes(&call.socket)
    } else {
        filter::passes_family(call.family) && filter::passes_process()
    };
    if !passes {
        count::add(Counter::Filtered);
        return 0;
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    send(
        now,
        #[inline(always)]
        |out: &mut SocketCall| describe(out, call),
    );
    0
}

#[inline(always)]
fn describe(out: &mut SocketCall, call: &Operation) {
    task::current(&mut out.task);
    out.operation = call.operation;
    out.syscall = call.syscall;
    out.tier = TIER.load() as u8;
    out.fd = if call.socket.exists() { call.fd } else { -1 };
    out.result = call.result;
    if call.socket.exists() {
        call.socket.describe_listener(&mut out.socket);
        if call.family == AF_UNIX {
            call.socket.unix_name(&mut out.name);
        }
    }
    out.socket.family = call.family;
    out.socket.socket_type = call.socket_type;
    if call.operation == SocketCall::LISTEN {
        out.backlog = call.arguments[1] as i32;
    }
    if call.operation == SocketCall::BIND && call.result < 0 {
        asked_for(out, call.arguments[1], call.arguments[2]);
    }
}

/// A socket that could not be bound has no address: what the process asked for is in its memory. Only shown, never
/// trusted: another thread may have changed it since.
#[inline(always)]
fn asked_for(out: &mut SocketCall, at: u64, length: u64) {
    // `struct sockaddr_in`: family, port, address; `sockaddr_in6`: family, port, flow, address.
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    let Ok([family, port]) = (unsafe { bpf_probe_read_user(at as *const [u16; 2]) }) else { return };
    if family != out.socket.family {
        return;
    }
    match family {
        AF_INET => {
            out.socket.port = port;
            // SAFETY: as above.
            let address = unsafe { bpf_probe_read_user((at + 4) as *const u32) }.unwrap_or_default();
            out.socket.addr = sock::bytes([address, 0, 0, 0]);
        }
        AF_INET6 => {
            out.socket.port = port;
            // SAFETY: as above.
            out.socket.addr = unsafe { bpf_probe_read_user((at + 8) as *const [u8; 16]) }.unwrap_or_default();
        }
        AF_UNIX => unix_asked_for(&mut out.name, at + 2, (length as u32).saturating_sub(2)),
        _ => {}
    }
}

#[inline(always)]
fn unix_asked_for(out: &mut UnixName, at: u64, length: u32) {
    sock::copy_name(length, out, |to| {
        // SAFETY: the helper takes any address, and fails on one that cannot be read.
        unsafe { bpf_probe_read_user_buf(at as *const u8, to) }.is_ok()
    });
}
