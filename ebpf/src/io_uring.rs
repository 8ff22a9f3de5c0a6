//! Tier 2: accepts, and the calls related to them, that a process requests through io_uring.

use acceptd_common::{AcceptCall, SocketCall};

use crate::{
    accept,
    event::{CallResult, NO_FD},
    offsets::*,
    read::{AnyStruct, Probed},
    related,
    sock::FileSock,
    syscall::is_captured,
    uapi::{
        IORING_CQE_F_BUFFER, IORING_CQE_F_MORE, IORING_OP_ACCEPT, IORING_OP_BIND, IORING_OP_LISTEN,
        REQ_F_FIXED_FILE,
    },
};

/// A `struct io_kiocb`.
pub type Request = Probed<AnyStruct>;

/// A request was submitted: if it is an accept, reports the attempt.
#[inline(always)]
pub fn request_submitted(request: Request) {
    if request.load::<u8>(&IO_OPCODE) != IORING_OP_ACCEPT {
        return;
    }
    // For a file in the ring's own table, the request has a slot by now and no file yet.
    if IO_FD.load() == ABSENT || request.load::<u64>(&IO_FLAGS) & REQ_F_FIXED_FILE != 0 {
        return;
    }
    let fd: i32 = request.load(&IO_FD);
    let socket = FileSock::from_fd(fd);
    if socket.exists() {
        related::report_attempt(socket, fd, AcceptCall::SYSCALL_IO_URING);
    }
}

/// A request is complete.
#[inline(always)]
pub fn request_completed(request: Request, result: i32) {
    match request.load::<u8>(&IO_OPCODE) {
        IORING_OP_ACCEPT => {
            // A slot of the ring's own table of files, or 0 for a descriptor (`struct io_accept`,
            // io_uring/net.c).
            let slot: u32 =
                if IO_ACCEPT_FILE_SLOT.load() == ABSENT { 0 } else { request.load(&IO_ACCEPT_FILE_SLOT) };
            accept::call_returned(
                call_result(result, slot == 0),
                #[inline(always)]
                || request_socket(request),
            );
        }
        IORING_OP_BIND if is_captured(SocketCall::BIND) => {
            related_completed(request, SocketCall::BIND, result);
        }
        IORING_OP_LISTEN if is_captured(SocketCall::LISTEN) => {
            related_completed(request, SocketCall::LISTEN, result);
        }
        _ => {}
    }
}

/// A multishot request posted a completion, and will post more. The kernel does not say which request it is.
#[inline(always)]
pub fn multishot_completed(result: i32, flags: u32) {
    // A completion with a buffer carries received data.
    if result >= 0 && flags & IORING_CQE_F_MORE != 0 && flags & IORING_CQE_F_BUFFER == 0 {
        accept::may_have_returned(call_result(result, true));
    }
}

/// The completion queue had no room for a completion. The kernel does not say which request it is.
#[inline(always)]
pub fn completion_overflowed(result: i32, flags: u32) {
    if result >= 0 && flags & IORING_CQE_F_BUFFER == 0 {
        accept::may_have_returned(call_result(result, true));
    }
}

#[inline(always)]
fn call_result(result: i32, is_fd: bool) -> CallResult {
    // The request does not keep the descriptor of the listener.
    CallResult { syscall: AcceptCall::SYSCALL_IO_URING, result, is_fd, listener_fd: NO_FD }
}

#[inline(always)]
fn related_completed(request: Request, operation: u8, result: i32) {
    let socket = request_socket(request);
    if socket.exists() {
        related::request_completed(operation, socket, result);
    }
}

/// The socket that the request operates on.
#[inline(always)]
fn request_socket(request: Request) -> FileSock {
    FileSock::from_file(request.follow(&IO_FILE))
}
