//! The socket calls related to accept: listen, bind, socket, and the start of accept.

use acceptd_common::{AcceptCall, Counter, SocketCall, UnixName};
use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_user, bpf_probe_read_user_buf};

use crate::{
    count, environment,
    event::NO_FD,
    filter,
    offsets::TIER,
    own,
    read::{Socket, Typed},
    send::send,
    sock::{FileSock, TypedSock, address_bytes, can_listen, copy_name, is_recorded_family},
    syscall::{self, CallKind, SystemCall},
    task,
    uapi::{AF_INET, AF_INET6, AF_UNIX, SOCK_TYPE_MASK},
    use_result,
};

/// A system call that is the `operation` of [`SocketCall`] returned `result`.
#[inline(always)]
pub fn syscall_returned(call: &SystemCall, operation: u8, result: i32) {
    if operation == SocketCall::CREATE {
        return socket_created(call.arguments[0] as u16, call.arguments[1], result);
    }
    let fd = call.arguments[0] as i32;
    let socket = FileSock::from_fd(fd);
    if !socket.exists() {
        return;
    }
    report(&RelatedCall { fd, arguments: call.arguments, ..RelatedCall::new(operation, socket, result) });
}

/// A request of io_uring on `socket` is complete.
#[inline(always)]
pub fn request_completed(operation: u8, socket: FileSock, result: i32) {
    report(&RelatedCall::new(operation, socket, result));
}

/// Tier 1: the kernel's function for `operation` returned, for a caller in the kernel or for a system call.
/// System calls are reported by their own hooks, which know the descriptor.
#[inline(always)]
pub fn function_returned(operation: u8, socket: Typed<Socket>, result: i32) {
    if syscall::current().is_some_and(|call| call.kind == CallKind::Related(operation)) {
        return;
    }
    let sk = TypedSock::from_socket(socket);
    if !sk.is_null() {
        let socket = FileSock { sk: sk.probed(), inode: socket.probed().inode() };
        request_completed(operation, socket, result);
    }
}

/// Tier 1: an accept on `socket` starts.
#[inline(always)]
pub fn accept_attempted(socket: Typed<Socket>) {
    let sk = TypedSock::from_socket(socket);
    if sk.is_null() {
        return;
    }
    sk.make_cookie();
    let (syscall, fd) = syscall::current_accept().unwrap_or((AcceptCall::SYSCALL_IO_URING, NO_FD));
    report_attempt(FileSock { sk: sk.probed(), inode: socket.probed().inode() }, fd, syscall);
}

/// Tier 2: the current thread enters accept. The time is remembered, for how long the call takes.
#[inline(always)]
pub fn accept_entered(call: &SystemCall) {
    let CallKind::Accept(syscall) = call.kind else { return };
    // SAFETY: the helper has no arguments.
    syscall::remember_accept_entry(unsafe { bpf_ktime_get_boot_ns() });
    let fd = call.arguments[0] as i32;
    let socket = FileSock::from_fd(fd);
    if socket.exists() {
        report_attempt(socket, fd, syscall);
    }
}

/// Reports that an accept on `socket` starts. `syscall` is one of `AcceptCall::SYSCALL_…`.
#[inline(always)]
pub fn report_attempt(socket: FileSock, fd: i32, syscall: u8) {
    report(&RelatedCall { syscall, fd, ..RelatedCall::new(SocketCall::ATTEMPT, socket, 0) });
}

/// socket(2) returned; `type_and_flags` is its second argument.
#[inline(always)]
fn socket_created(family: u16, type_and_flags: u64, result: i32) {
    let socket_type = (type_and_flags & SOCK_TYPE_MASK) as u16;
    let operation = RelatedCall::new(SocketCall::CREATE, FileSock::from_fd(result), result);
    report(&RelatedCall { family, socket_type, fd: result, ..operation });
}

/// The facts about one call.
struct RelatedCall {
    /// One of [`SocketCall`].
    operation: u8,
    /// For an attempt, one of `AcceptCall::SYSCALL_…`.
    syscall: u8,
    family: u16,
    socket_type: u16,
    socket: FileSock,
    fd: i32,
    result: i32,
    arguments: [u64; 3],
}

impl RelatedCall {
    #[inline(always)]
    fn new(operation: u8, socket: FileSock, result: i32) -> Self {
        let (family, socket_type) = (socket.sk.family(), socket.sk.socket_type());
        Self { operation, syscall: 0, family, socket_type, socket, fd: NO_FD, result, arguments: [0; 3] }
    }
}

/// Counts the call, and sends its sample unless it is excluded.
#[inline(always)]
fn report(call: &RelatedCall) {
    use_result(count_and_send(call));
}

/// Not inlined; see `accept::send_sample`. Sockets that cannot be accepted on are not events, and are not
/// counted.
#[inline(never)]
fn count_and_send(call: &RelatedCall) -> u32 {
    if !is_recorded_family(call.family) || !can_listen(call.socket_type) {
        return 0;
    }
    count::add(Counter::OtherEvents);
    if own::is_current_process() && !own::are_reported() {
        count::add(Counter::SelfAccept);
        return 0;
    }
    let passes = if call.socket.exists() {
        filter::passes(call.socket.sk)
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
        |out: &mut SocketCall| fill(out, call),
    );
    0
}

/// Fills a sample, which is zero.
#[inline(always)]
fn fill(out: &mut SocketCall, call: &RelatedCall) {
    task::describe_current(&mut out.task);
    out.operation = call.operation;
    out.syscall = call.syscall;
    out.tier = TIER.load() as u8;
    out.fd = if call.socket.exists() { call.fd } else { NO_FD };
    out.result = call.result;
    if call.socket.exists() {
        call.socket.sk.describe_listener(call.socket.inode, &mut out.socket);
        if call.family == AF_UNIX {
            call.socket.sk.unix_name(&mut out.name);
        }
    }
    out.socket.family = call.family;
    out.socket.socket_type = call.socket_type;
    if call.operation == SocketCall::LISTEN {
        out.backlog = call.arguments[1] as i32;
        if call.result == 0 {
            environment::copy_service_name(&mut out.service);
        }
    }
    if call.operation == SocketCall::BIND && call.result < 0 {
        copy_requested_address(out, call.arguments[1], call.arguments[2]);
    }
}

/// Copies the address that a failed bind asked for from the memory of the process, since the socket has no
/// address. The copy is only shown, never trusted: another thread may have changed the memory since.
#[inline(always)]
fn copy_requested_address(out: &mut SocketCall, address: u64, length: u64) {
    // `struct sockaddr_in`: family, port, address; `sockaddr_in6`: family, port, flow, address.
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    let Ok([family, port]) = (unsafe { bpf_probe_read_user(address as *const [u16; 2]) }) else { return };
    if family != out.socket.family {
        return;
    }
    match family {
        AF_INET => {
            out.socket.port = port;
            // SAFETY: as above.
            let ip = unsafe { bpf_probe_read_user((address + 4) as *const u32) }.unwrap_or_default();
            out.socket.addr = address_bytes([ip, 0, 0, 0]);
        }
        AF_INET6 => {
            out.socket.port = port;
            // SAFETY: as above.
            out.socket.addr =
                unsafe { bpf_probe_read_user((address + 8) as *const [u8; 16]) }.unwrap_or_default();
        }
        AF_UNIX => copy_requested_name(&mut out.name, address + 2, (length as u32).saturating_sub(2)),
        _ => {}
    }
}

#[inline(always)]
fn copy_requested_name(out: &mut UnixName, address: u64, length: u32) {
    copy_name(
        length,
        out,
        #[inline(always)]
        |to| {
            // SAFETY: the helper takes any address, and fails on one that cannot be read.
            unsafe { bpf_probe_read_user_buf(address as *const u8, to) }.is_ok()
        },
    );
}
