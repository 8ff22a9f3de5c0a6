//! Tier 2: accepts, and the calls related to them, that a process requests through io_uring.

use acceptd_common::{AcceptCall, Counter, SocketCall};

use crate::{
    accept, count,
    event::{CallResult, NO_FD},
    offsets::*,
    pending,
    read::{AnyStruct, Probed, load_at},
    related,
    sock::FileSock,
    syscall::is_captured,
    uapi::{
        ECANCELED, IORING_CQE_F_BUFFER, IORING_CQE_F_MORE, IORING_FILE_INDEX_ALLOC, IORING_OP_ACCEPT,
        IORING_OP_BIND, IORING_OP_LISTEN, REQ_F_FIXED_FILE,
    },
};

/// A `struct io_ring_ctx`.
pub type Ring = Probed<AnyStruct>;
/// A `struct io_kiocb`.
pub type Request = Probed<AnyStruct>;

/// The bits of a word of the ring's table of files that are no part of the file's address (`FFS_MASK`,
/// `~IO_SLOT_…`, io_uring/filetable.h).
const FILE_BITS: u64 = 7;

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
pub fn request_completed(ring: Ring, request: Request, result: i32) {
    match request.load::<u8>(&IO_OPCODE) {
        IORING_OP_ACCEPT => accept_completed(ring, request, result),
        IORING_OP_BIND if is_captured(SocketCall::BIND) => {
            related_completed(request, SocketCall::BIND, result);
        }
        IORING_OP_LISTEN if is_captured(SocketCall::LISTEN) => {
            related_completed(request, SocketCall::LISTEN, result);
        }
        _ => {}
    }
}

#[inline(always)]
fn accept_completed(ring: Ring, request: Request, result: i32) {
    if result == -ECANCELED {
        // The request was cancelled before it accepted, by its owner or because its owner exits. The current
        // task may be any worker of the kernel.
        count::add(Counter::Seen);
        return count::add(Counter::Interrupted);
    }
    // A slot of the ring's own table of files plus one, or 0 for a descriptor (`struct io_accept`,
    // io_uring/net.c).
    let slot: u32 = if IO_ACCEPT_FILE_SLOT.load() == ABSENT { 0 } else { request.load(&IO_ACCEPT_FILE_SLOT) };
    if slot == 0 || result < 0 {
        return accept::call_returned(
            call_result(result, slot == 0),
            #[inline(always)]
            || request_socket(request),
        );
    }
    let slot = if slot == IORING_FILE_INDEX_ALLOC { result as u32 } else { slot - 1 };
    accept::slot_filled(
        call_result(result, false),
        socket_in_slot(ring, slot),
        #[inline(always)]
        || request_socket(request),
    );
}

/// A multishot request posted a completion, and will post more. The kernel does not say which request it is.
#[inline(always)]
pub fn multishot_completed(ring: Ring, result: i32, flags: u32) {
    // A completion with a buffer carries received data.
    if result >= 0 && flags & IORING_CQE_F_MORE != 0 && flags & IORING_CQE_F_BUFFER == 0 {
        may_be_accept(ring, result);
    }
}

/// The completion queue had no room for a completion. The kernel does not say which request it is.
#[inline(always)]
pub fn completion_overflowed(ring: Ring, result: i32, flags: u32) {
    if result >= 0 && flags & IORING_CQE_F_BUFFER == 0 {
        may_be_accept(ring, result);
    }
}

/// A request completed, and the kernel does not say which. It was an accept if its result is the descriptor
/// of a pending connection, or the slot of one in the ring's own table of files.
#[inline(always)]
fn may_be_accept(ring: Ring, result: i32) {
    let by_fd = FileSock::from_fd(result);
    if by_fd.exists() && pending::has_entry(by_fd.sk) {
        return accept::request_returned(call_result(result, true), by_fd);
    }
    let by_slot = socket_in_slot(ring, result as u32);
    if by_slot.exists() && pending::has_entry(by_slot.sk) {
        accept::request_returned(call_result(result, false), by_slot);
    } else if by_fd.exists() || by_slot.exists() {
        count::add(Counter::Unproven);
    }
}

/// The socket in a slot of the ring's own table of files; [`FileSock::NONE`] if there is none.
#[inline(always)]
fn socket_in_slot(ring: Ring, slot: u32) -> FileSock {
    FileSock::from_file(Probed::new(file_in_slot(ring, slot) as *const u8))
}

/// The address of the file in a slot, or 0.
#[inline(always)]
fn file_in_slot(ring: Ring, slot: u32) -> u64 {
    let at = slot as usize;
    let word = if IO_TABLE_NODES.load() != ABSENT {
        if slot >= ring.load::<u32>(&IO_TABLE_NODES_LEN) {
            return 0;
        }
        let nodes = ring.load::<u64>(&IO_TABLE_NODES) as *const u64;
        Probed::<AnyStruct>::new(load_at(nodes.wrapping_add(at)) as *const u8).load::<u64>(&IO_NODE_FILE)
    } else if IO_TABLE_FILES.load() != ABSENT {
        if slot >= ring.load::<u32>(&IO_TABLE_FILES_LEN) {
            return 0;
        }
        load_at((ring.load::<u64>(&IO_TABLE_FILES) as *const u64).wrapping_add(at))
    } else {
        0
    };
    word & !FILE_BITS
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
