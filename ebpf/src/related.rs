//! Calls beside accept: listen, bind, socket, and the begin of accept.

use acceptd_common::{Counter, SocketCall, UnixName};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns, bpf_probe_read_user, bpf_probe_read_user_buf,
};

use crate::{
    accept::by_agent,
    count, filter,
    maps::ENTERED,
    offsets::RECORD_SELF,
    send::send,
    sock::{self, AF_INET, AF_INET6, AF_UNIX, Socket},
    syscall::{SystemCall, What, is_wanted},
    task,
};

/// `SOCK_CLOEXEC` and `SOCK_NONBLOCK` are or-ed to the type (`SOCK_TYPE_MASK`, include/linux/net.h).
const SOCK_TYPE_MASK: u64 = 0xf;

/// `operation` of `SocketCall` returned `result`.
#[inline(always)]
pub fn returned(call: &SystemCall, operation: u8, result: i32) {
    if operation == SocketCall::CREATE {
        return created(call.arguments[0] as u16, (call.arguments[1] & SOCK_TYPE_MASK) as u16, result);
    }
    let fd = call.arguments[0] as i32;
    let Some(socket) = sock::of_fd(fd) else { return };
    used(operation, socket, fd, call.arguments, result);
}

/// A request of io_uring on `socket` is complete.
#[inline(always)]
pub fn completed(operation: u8, socket: Socket, result: i32) {
    used(operation, socket, -1, [0; 3], result);
}

/// accept begins. The time is kept, for how long it takes.
#[inline(always)]
pub fn entered(call: &SystemCall) {
    let What::Accept(syscall) = call.what else { return };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if ENTERED.insert(&bpf_get_current_pid_tgid(), &now, 0).is_err() {
        count::add(Counter::BlockedFull);
    }
    let fd = call.arguments[0] as i32;
    if let Some(socket) = sock::of_fd(fd) {
        attempted(socket, fd, syscall);
    }
}

/// An accept on `socket` begins.
#[inline(always)]
pub fn attempted(socket: Socket, fd: i32, syscall: u8) {
    let Some(now) = decided(socket) else { return };
    send(now, |out: &mut SocketCall| {
        describe(out, SocketCall::ATTEMPT, socket, fd, 0);
        out.syscall = syscall;
    });
}

#[inline(always)]
fn used(operation: u8, socket: Socket, fd: i32, arguments: [u64; 3], result: i32) {
    let Some(now) = decided(socket) else { return };
    send(now, |out: &mut SocketCall| {
        describe(out, operation, socket, fd, result);
        if operation == SocketCall::LISTEN {
            out.backlog = arguments[1] as i32;
        }
        if operation == SocketCall::BIND && result < 0 {
            asked_for(out, arguments[1], arguments[2]);
        }
    });
}

/// A new socket, or none.
#[inline(always)]
pub fn created(family: u16, socket_type: u16, result: i32) {
    if !is_wanted(SocketCall::CREATE) || !sock::is_known(family) || !sock::can_listen(socket_type) {
        return;
    }
    count::add(Counter::Other);
    if by_agent() && RECORD_SELF.load() == 0 {
        return count::add(Counter::SelfAccept);
    }
    if !filter::passes_family(family) || !filter::passes_process() {
        return count::add(Counter::Filtered);
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    send(now, |out: &mut SocketCall| {
        match sock::of_fd(result) {
            Some(socket) => describe(out, SocketCall::CREATE, socket, result, result),
            None => {
                task::current(&mut out.task);
                out.operation = SocketCall::CREATE;
                out.tier = 2;
                out.fd = -1;
                out.result = result;
            }
        }
        out.socket.family = family;
        out.socket.socket_type = socket_type;
    });
}

/// Counts the call; its time if it is to be sent. Sockets that cannot be accepted on are no events.
#[inline(always)]
fn decided(socket: Socket) -> Option<u64> {
    if !sock::is_known(socket.family()) || !sock::can_listen(socket.socket_type()) {
        return None;
    }
    count::add(Counter::Other);
    if by_agent() && RECORD_SELF.load() == 0 {
        count::add(Counter::SelfAccept);
        return None;
    }
    if !filter::passes(socket) {
        count::add(Counter::Filtered);
        return None;
    }
    // SAFETY: the helper has no arguments.
    Some(unsafe { bpf_ktime_get_boot_ns() })
}

#[inline(always)]
fn describe(out: &mut SocketCall, operation: u8, socket: Socket, fd: i32, result: i32) {
    task::current(&mut out.task);
    socket.describe_listener(&mut out.socket);
    out.operation = operation;
    out.tier = 2;
    out.fd = fd;
    out.result = result;
    if out.socket.family == AF_UNIX {
        socket.unix_name(&mut out.name);
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
