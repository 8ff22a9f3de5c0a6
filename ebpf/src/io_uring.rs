//! Accepts, listens, binds and sockets that a process asks io_uring for.

use acceptd_common::{Call, SocketCall};

use crate::{
    accept::{
        NO_FD, Returned, {self},
    },
    offsets::*,
    read::{probed, probed_ptr},
    related,
    sock::{
        ABSENT, Socket, {self},
    },
    syscall::is_wanted,
};

// `enum io_uring_op`, include/uapi/linux/io_uring.h
const ACCEPT: u8 = 13;
const BIND: u8 = 56;
const LISTEN: u8 = 57;

// include/uapi/linux/io_uring.h
const CQE_F_BUFFER: u32 = 1;
const CQE_F_MORE: u32 = 2;
/// The flags of a submission are the lowest of a request's (include/linux/io_uring_types.h).
const REQ_F_FIXED_FILE: u64 = 1;

/// A request was submitted.
#[inline(always)]
pub fn submitted(request: *const u8) {
    if probed::<u8>(request, &IO_OPCODE) != ACCEPT {
        return;
    }
    // Of a file in the ring's own table the request has the slot by now, not the file.
    if IO_FD.load() == ABSENT || probed::<u64>(request, &IO_FLAGS) & REQ_F_FIXED_FILE != 0 {
        return;
    }
    let fd: i32 = probed(request, &IO_FD);
    let socket = sock::of_fd(fd);
    if socket.exists() {
        related::attempted(socket, fd, Call::SYSCALL_IO_URING);
    }
}

/// A request is complete.
#[inline(always)]
pub fn completed(request: *const u8, result: i32) {
    match probed::<u8>(request, &IO_OPCODE) {
        ACCEPT => {
            // A slot of the ring's own table of files, or 0 for a descriptor (`struct io_accept`, io_uring/net.c).
            let slot: u32 =
                if IO_ACCEPT_FILE_SLOT.load() == ABSENT { 0 } else { probed(request, &IO_ACCEPT_FILE_SLOT) };
            accept::returned(returned(result, slot == 0), || listener(request));
        }
        BIND if is_wanted(SocketCall::BIND) => related_call(request, SocketCall::BIND, result),
        LISTEN if is_wanted(SocketCall::LISTEN) => related_call(request, SocketCall::LISTEN, result),
        _ => {}
    }
}

/// A completion that does not say which request it is of: of a multishot request, as long as more will follow.
#[inline(always)]
pub fn completed_one_of_many(result: i32, flags: u32) {
    // What carries a buffer is data that was received.
    if result >= 0 && flags & CQE_F_MORE != 0 && flags & CQE_F_BUFFER == 0 {
        accept::may_have_returned(returned(result, true));
    }
}

/// A completion for which the completion queue had no room; of which request is not said either.
#[inline(always)]
pub fn overflowed(result: i32, flags: u32) {
    if result >= 0 && flags & CQE_F_BUFFER == 0 {
        accept::may_have_returned(returned(result, true));
    }
}

#[inline(always)]
fn returned(result: i32, is_fd: bool) -> Returned {
    // The descriptor of the listener is not kept in the request.
    Returned { syscall: Call::SYSCALL_IO_URING, result, is_fd, listener_fd: NO_FD }
}

#[inline(always)]
fn related_call(request: *const u8, operation: u8, result: i32) {
    let socket = listener(request);
    if socket.exists() {
        related::completed(operation, socket, result);
    }
}

/// The socket that the request is on.
#[inline(always)]
fn listener(request: *const u8) -> Socket {
    sock::of_file(probed_ptr(request, &IO_FILE))
}
