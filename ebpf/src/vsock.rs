//! VSOCK connection requests that a full accept queue refuses, with the transports of virtio: between a
//! virtual machine and its host, and over the loopback.
//!
//! The kernel decides in `virtio_transport_recv_listen` (net/vmw_vsock/virtio_transport_common.c), which
//! compilers inline. The programs therefore follow the steps around the decision, which one task takes:
//!
//! 1. A packet arrives ([`arrived`]). If it is a request, it is remembered for the task.
//! 2. The kernel looks for the socket with this address ([`found`]).
//! 3. If the queue has room, the kernel creates the new socket ([`created`]), and the request is forgotten.
//! 4. Otherwise the kernel answers with a reset ([`answers`]). It does so under the lock that it took before
//!    it decided, so the queue's length is still the one that it compared.
//!
//! A reset for another reason counts as well only if the queue is full at that moment; each such reason is
//! excluded: there is no listener, it closes, the types of the sockets differ, or a new socket was created.

use aya_ebpf::macros::btf_map;

use crate::{
    offsets::*,
    overflow,
    read::Probed,
    sock::ProbedSock,
    storage::TaskStorage,
    task,
    uapi::{
        BPF_LOCAL_STORAGE_GET_F_CREATE, SOCK_SEQPACKET, SOCK_STREAM, VIRTIO_VSOCK_OP_REQUEST,
        VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_TYPE_STREAM,
    },
};

/// The VSOCK request that a task handles. Freed with the task.
#[btf_map]
static VSOCK_REQUESTS: TaskStorage<VsockRequest> = TaskStorage::new();

/// A connection request that was neither accepted nor refused yet.
#[repr(C)]
pub struct VsockRequest {
    /// Address of the socket that the request is for; 0 before it is found.
    socket: u64,
    /// The type of that socket; 0 if the task handles no request.
    socket_type: u64,
}

/// The request of the current task; `None` if it never had one and `flags` does not ask for one.
#[inline(always)]
fn current(flags: u64) -> Option<&'static mut VsockRequest> {
    // SAFETY: a value of task storage, which only the programs of this task change; or null.
    unsafe { VSOCK_REQUESTS.get(task::current(), flags).as_mut() }
}

/// A packet arrives (tracepoint `virtio_transport_recv_pkt`).
#[inline(always)]
pub fn arrived(packet_type: u16, operation: u16) {
    let socket_type = match (operation, packet_type) {
        (VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_TYPE_STREAM) => SOCK_STREAM,
        (VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_TYPE_SEQPACKET) => SOCK_SEQPACKET,
        _ => 0,
    };
    let flags = if socket_type == 0 { 0 } else { BPF_LOCAL_STORAGE_GET_F_CREATE };
    if let Some(request) = current(flags) {
        (request.socket, request.socket_type) = (0, u64::from(socket_type));
    }
}

/// The socket with the packet's address was found, or null (`vsock_find_bound_socket`,
/// net/vmw_vsock/af_vsock.c).
#[inline(always)]
pub fn found(socket: ProbedSock) {
    if let Some(request) = current(0)
        && request.socket_type != 0
    {
        request.socket = socket.as_ptr() as u64;
    }
}

/// A listener takes a connection (`vsock_create_connected`, net/vmw_vsock/af_vsock.c). It may still be reset,
/// when it counts in the queue's length already.
#[inline(always)]
pub fn created() {
    if let Some(request) = current(0) {
        (request.socket, request.socket_type) = (0, 0);
    }
}

/// The kernel sends a packet (tracepoint `virtio_transport_alloc_pkt`).
#[inline(always)]
pub fn answers(operation: u16) {
    if operation != VIRTIO_VSOCK_OP_RST {
        return;
    }
    let Some(request) = current(0) else { return };
    let listener: ProbedSock = Probed::new(request.socket as *const u8);
    let socket_type = request.socket_type;
    (request.socket, request.socket_type) = (0, 0);
    if socket_type != 0
        && !listener.is_null()
        && listener.is_listening()
        && u64::from(listener.socket_type()) == socket_type
        // A listener that closes has none.
        && listener.load::<u64>(&SK_SOCKET) != 0
    {
        overflow::count_if_full(listener);
    }
}
