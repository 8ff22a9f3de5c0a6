//! Tier 1's entry points: at the entry (fentry) and the exit (fexit) of kernel functions.
//!
//! The return value is read from its place behind the arguments. `bpf_get_func_ret` would need 5.17, and all
//! these functions have the same number of arguments on every kernel.

use acceptd_common::SocketCall;
use aya_ebpf::{
    macros::{fentry, fexit, lsm},
    programs::{FEntryContext, FExitContext, LsmContext},
};

use crate::{
    connections,
    copies::with_copies,
    in_flight,
    offsets::UNIX_FIND_OTHER_ARGUMENTS,
    overflow, pending,
    read::Arguments,
    related,
    sock::TypedSock,
    sock_graft as graft,
    syscall::{self, CallKind},
    traced,
};

with_copies! {
    /// `struct file *do_accept(struct file *file, …4 more)`, net/socket.c
    #[fexit(function = "do_accept")]
    fn do_accept_exit, do_accept_exit_2, do_accept_exit_3(ctx: FExitContext, copy) {
        let args = Arguments::from_context(&ctx);
        // SAFETY: the first of five arguments, and the result.
        let (file, result) = unsafe { (args.typed(0), args.typed(5)) };
        in_flight::do_accept_exit(copy, file, result);
    }

    /// `int __sys_accept4(int fd, …3 more)`, net/socket.c
    #[fexit(function = "__sys_accept4")]
    fn accept4_exit, accept4_exit_2, accept4_exit_3(ctx: FExitContext, _copy) {
        // SAFETY: the result behind four arguments.
        in_flight::sys_accept_exit(unsafe { Arguments::from_context(&ctx).word(4) } as i32);
    }

    /// The function of [`do_accept_exit`].
    #[fentry(function = "do_accept")]
    fn do_accept_entry, do_accept_entry_2, do_accept_entry_3(_ctx: FEntryContext, copy) {
        in_flight::do_accept_entry(copy);
    }

    /// The function of [`accept4_exit`].
    #[fentry(function = "__sys_accept4")]
    fn accept4_entry, accept4_entry_2, accept4_entry_3(ctx: FEntryContext, copy) {
        // SAFETY: the first of four arguments.
        in_flight::sys_accept_entry(copy, unsafe { Arguments::from_context(&ctx).word(0) } as i32);
    }

    /// `void security_sock_graft(struct sock *sk, struct socket *parent)`, security/security.c
    #[fentry(function = "security_sock_graft")]
    fn sock_graft, sock_graft_2, sock_graft_3(ctx: FEntryContext, copy) {
        let args = Arguments::from_context(&ctx);
        // SAFETY: both arguments.
        let (sk, socket) = unsafe { (args.typed(0), args.typed(1)) };
        graft::grafted(copy, sk, socket);
    }
}

/// `struct sock *inet_csk_complete_hashdance(struct sock *sk, struct sock *child, struct request_sock *req,
/// bool own_req)`, net/ipv4/inet_connection_sock.c
#[fentry(function = "inet_csk_complete_hashdance")]
pub fn complete_hashdance(ctx: FEntryContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: the four arguments.
    let (listener, child, request, own) =
        unsafe { (args.typed(0), args.typed(1), args.typed(2), args.word(3)) };
    if own as u8 != 0 {
        pending::store_handshake(listener, child, request);
    }
    0
}

/// `int security_unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)`,
/// security/security.c
#[fentry(function = "security_unix_stream_connect")]
pub fn unix_stream_connect(ctx: FEntryContext) -> i32 {
    // SAFETY: the last of three arguments.
    pending::store_unix_connect(unsafe { Arguments::from_context(&ctx).typed(2) });
    0
}

/// `int unix_release(struct socket *sock)`, net/unix/af_unix.c
#[fentry(function = "unix_release")]
pub fn unix_release(ctx: FEntryContext) -> i32 {
    // SAFETY: the only argument.
    let sk = TypedSock::from_socket(unsafe { Arguments::from_context(&ctx).typed(0) });
    if !sk.is_null() {
        traced::closed(sk, 0);
        connections::count_closed(sk);
    }
    0
}

/// `int security_socket_accept(struct socket *sock, struct socket *newsock)`, security/security.c
#[fentry(function = "security_socket_accept")]
pub fn socket_accept(ctx: FEntryContext) -> i32 {
    // SAFETY: the first of two arguments.
    related::accept_attempted(unsafe { Arguments::from_context(&ctx).typed(0) });
    0
}

/// The same as an LSM program, which allows everything. It is attached where the kernel refuses the program
/// above and the BPF security module is active.
#[lsm(hook = "socket_accept")]
pub fn socket_accept_lsm(ctx: LsmContext) -> i32 {
    // SAFETY: the first of two arguments.
    related::accept_attempted(unsafe { Arguments::from_context(&ctx).typed(0) });
    0
}

/// `int __sys_listen(int fd, int backlog)`, net/socket.c
#[fexit(function = "__sys_listen")]
pub fn listen_exit(ctx: FExitContext) -> i32 {
    // SAFETY: the result behind two arguments.
    syscall_returned(unsafe { Arguments::from_context(&ctx).word(2) } as i32)
}

/// `int __sys_bind(int fd, struct sockaddr *umyaddr, int addrlen)`, net/socket.c
#[fexit(function = "__sys_bind")]
pub fn bind_exit(ctx: FExitContext) -> i32 {
    // SAFETY: the result behind three arguments.
    syscall_returned(unsafe { Arguments::from_context(&ctx).word(3) } as i32)
}

/// `int __sys_socket(int family, int type, int protocol)`, net/socket.c
#[fexit(function = "__sys_socket")]
pub fn socket_exit(ctx: FExitContext) -> i32 {
    // SAFETY: the result behind three arguments.
    syscall_returned(unsafe { Arguments::from_context(&ctx).word(3) } as i32)
}

/// The system call that the current thread is in returned `result`.
#[inline(always)]
fn syscall_returned(result: i32) -> i32 {
    if let Some(call) = syscall::current()
        && let CallKind::Related(operation) = call.kind
    {
        related::syscall_returned(&call, operation, result);
    }
    0
}

/// `int __sys_listen_socket(struct socket *sock, int backlog)`, net/socket.c, since 6.11
#[fexit(function = "__sys_listen_socket")]
pub fn listen_socket_exit(ctx: FExitContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: the first of two arguments, and the result.
    let (socket, result) = unsafe { (args.typed(0), args.word(2)) };
    related::function_returned(SocketCall::LISTEN, socket, result as i32);
    0
}

/// `int __sys_bind_socket(struct socket *sock, struct sockaddr_storage *address, int addrlen)`, net/socket.c,
/// since 6.11
#[fexit(function = "__sys_bind_socket")]
pub fn bind_socket_exit(ctx: FExitContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: the first of three arguments, and the result.
    let (socket, result) = unsafe { (args.typed(0), args.word(3)) };
    related::function_returned(SocketCall::BIND, socket, result as i32);
    0
}

/// `int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct
/// sock *sk, struct sk_buff *skb)`, net/ipv4/tcp_input.c
#[fentry(function = "tcp_conn_request")]
pub fn conn_request(ctx: FEntryContext) -> i32 {
    // SAFETY: the third of four arguments.
    overflow::syn_arrived(unsafe { Arguments::from_context(&ctx).typed(2) });
    0
}

/// `struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, …)`, net/ipv4/tcp_ipv4.c
#[fentry(function = "tcp_v4_syn_recv_sock")]
pub fn syn_recv_sock_v4(ctx: FEntryContext) -> i32 {
    // SAFETY: the first of at least six arguments.
    overflow::final_ack_arrived(unsafe { Arguments::from_context(&ctx).typed(0) });
    0
}

/// `struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, …)`, net/ipv6/tcp_ipv6.c
#[fentry(function = "tcp_v6_syn_recv_sock")]
pub fn syn_recv_sock_v6(ctx: FEntryContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: the first two of at least six arguments.
    let (sk, skb) = unsafe { (args.typed(0), args.typed(1)) };
    if !overflow::is_ipv4(skb) {
        overflow::final_ack_arrived(sk);
    }
    0
}

/// `struct sock *unix_find_other(struct net *net, struct sockaddr_un *sunaddr, int addr_len, int type)`,
/// on some kernels with a fifth argument, net/unix/af_unix.c
#[fexit(function = "unix_find_other")]
pub fn unix_find_other(ctx: FExitContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: the fourth argument, and what follows it: the result, or a further argument.
    let (socket_type, mut other) = unsafe { (args.word(3), args.typed(4)) };
    match UNIX_FIND_OTHER_ARGUMENTS.load() {
        4 => {}
        // SAFETY: the result behind five arguments. The verifier removes this branch on other kernels.
        5 => other = unsafe { args.typed(5) },
        _ => return 0,
    }
    overflow::unix_found(other, socket_type as u16);
    0
}

/// `int unix_stream_connect(struct socket *sock, struct sockaddr *uaddr, int addr_len, int flags)`,
/// net/unix/af_unix.c
#[fexit(function = "unix_stream_connect")]
pub fn unix_connect_exit(ctx: FExitContext) -> i32 {
    let args = Arguments::from_context(&ctx);
    // SAFETY: the first and the last of four arguments, and the result.
    let (socket, flags, result) = unsafe { (args.typed(0), args.word(3), args.word(4)) };
    overflow::unix_connected(socket, flags as u32, result as i32);
    0
}
