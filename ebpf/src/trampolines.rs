//! Tier 1's entry points: at the begin (fentry) and the end (fexit) of kernel functions. The context is the function's
//! arguments, eight bytes each, and at the end its return value behind them.
//!
//! The return value is read from its slot, not with `bpf_get_func_ret`, which needs 5.17: all these functions have as many
//! arguments on every kernel.

use acceptd_common::SocketCall;
use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, fexit, lsm},
    programs::{FEntryContext, FExitContext, LsmContext},
};

use crate::{calls, grafted, lives, open, pending, read::slot, related, sock, syscall::What};

/// `struct file *do_accept(struct file *file, …4 more)`, net/socket.c
#[fexit(function = "do_accept")]
pub fn do_accept_exit(ctx: FExitContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: five arguments and the result; the verifier checks it.
    let (file, result) = unsafe { (slot(args, 0), slot(args, 5)) };
    calls::left(file as *const u8, result);
    0
}

/// `int __sys_accept4(int fd, …3 more)`, net/socket.c
#[fexit(function = "__sys_accept4")]
pub fn accept4_exit(ctx: FExitContext) -> i32 {
    // SAFETY: four arguments and the result; the verifier checks it.
    calls::ended(unsafe { slot(ctx.as_ptr().cast(), 4) } as i32);
    0
}

#[fentry(function = "do_accept")]
pub fn do_accept_entry(_: FEntryContext) -> i32 {
    calls::entered();
    0
}

#[fentry(function = "__sys_accept4")]
pub fn accept4_entry(ctx: FEntryContext) -> i32 {
    // SAFETY: the first of four arguments; the verifier checks it.
    calls::began(unsafe { slot(ctx.as_ptr().cast(), 0) } as i32);
    0
}

/// `void security_sock_graft(struct sock *sk, struct socket *parent)`, security/security.c
#[fentry(function = "security_sock_graft")]
pub fn sock_graft(ctx: FEntryContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: two arguments; the verifier checks it.
    let (sk, socket) = unsafe { (slot(args, 0), slot(args, 1)) };
    grafted::grafted(sk as *const u8, socket as *const u8);
    0
}

/// `struct sock *inet_csk_complete_hashdance(struct sock *sk, struct sock *child, struct request_sock *req, bool own_req)`,
/// net/ipv4/inet_connection_sock.c
#[fentry(function = "inet_csk_complete_hashdance")]
pub fn complete_hashdance(ctx: FEntryContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: four arguments; the verifier checks it.
    let (child, request, own) = unsafe { (slot(args, 1), slot(args, 2), slot(args, 3)) };
    if own as u8 != 0 {
        pending::handshake(child as *const u8, request as *const u8);
    }
    0
}

/// `int security_unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)`, security/security.c
#[fentry(function = "security_unix_stream_connect")]
pub fn unix_stream_connect(ctx: FEntryContext) -> i32 {
    // SAFETY: the last of three arguments; the verifier checks it.
    pending::connected_unix(unsafe { slot(ctx.as_ptr().cast(), 2) } as *const u8);
    0
}

/// `int unix_release(struct socket *sock)`, net/unix/af_unix.c
#[fentry(function = "unix_release")]
pub fn unix_release(ctx: FEntryContext) -> i32 {
    // SAFETY: the only argument; the verifier checks it.
    let socket = sock::of_typed_socket(unsafe { slot(ctx.as_ptr().cast(), 0) } as *const u8);
    if socket.exists() {
        open::ended(socket.sk, 0);
        lives::ended(socket.sk);
    }
    0
}

/// `int security_socket_accept(struct socket *sock, struct socket *newsock)`, security/security.c
#[fentry(function = "security_socket_accept")]
pub fn socket_accept(ctx: FEntryContext) -> i32 {
    // SAFETY: the first of two arguments; the verifier checks it.
    related::accept_begins(unsafe { slot(ctx.as_ptr().cast(), 0) } as *const u8);
    0
}

/// The same as a program of the BPF security module: attached only where the entry above cannot be, and where that module
/// is active. It allows everything.
#[lsm(hook = "socket_accept")]
pub fn socket_accept_lsm(ctx: LsmContext) -> i32 {
    // SAFETY: the first of two arguments; the verifier checks it.
    related::accept_begins(unsafe { slot(ctx.as_ptr().cast(), 0) } as *const u8);
    0
}

/// `int __sys_listen(int fd, int backlog)`, net/socket.c
#[fexit(function = "__sys_listen")]
pub fn listen_exit(ctx: FExitContext) -> i32 {
    // SAFETY: the result after two arguments; the verifier checks it.
    returned(unsafe { slot(ctx.as_ptr().cast(), 2) } as i32)
}

/// `int __sys_bind(int fd, struct sockaddr *umyaddr, int addrlen)`, net/socket.c
#[fexit(function = "__sys_bind")]
pub fn bind_exit(ctx: FExitContext) -> i32 {
    // SAFETY: the result after three arguments; the verifier checks it.
    returned(unsafe { slot(ctx.as_ptr().cast(), 3) } as i32)
}

/// `int __sys_socket(int family, int type, int protocol)`, net/socket.c
#[fexit(function = "__sys_socket")]
pub fn socket_exit(ctx: FExitContext) -> i32 {
    // SAFETY: the result after three arguments; the verifier checks it.
    returned(unsafe { slot(ctx.as_ptr().cast(), 3) } as i32)
}

/// The system call that the current thread is in has `result`.
#[inline(always)]
fn returned(result: i32) -> i32 {
    if let Some(call) = calls::current()
        && let What::Related(operation) = call.what
    {
        related::returned(&call, operation, result);
    }
    0
}

/// `int __sys_listen_socket(struct socket *sock, int backlog)`, net/socket.c, since 6.11
#[fexit(function = "__sys_listen_socket")]
pub fn listen_socket_exit(ctx: FExitContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: two arguments and the result; the verifier checks it.
    let (socket, result) = unsafe { (slot(args, 0), slot(args, 2)) };
    related::happened(SocketCall::LISTEN, socket as *const u8, result as i32);
    0
}

/// `int __sys_bind_socket(struct socket *sock, struct sockaddr_storage *address, int addrlen)`, net/socket.c, since 6.11
#[fexit(function = "__sys_bind_socket")]
pub fn bind_socket_exit(ctx: FExitContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: three arguments and the result; the verifier checks it.
    let (socket, result) = unsafe { (slot(args, 0), slot(args, 3)) };
    related::happened(SocketCall::BIND, socket as *const u8, result as i32);
    0
}
