//! The accepted values of `capture.skip_hooks`: the names of the eBPF programs, in alphabetical order.
//!
//! The list is here, and not beside the table of hooks, so that `config` depends on no other module. A
//! test in `bpf/hooks.rs` holds the list against the table of hooks.

/// The name of every eBPF program that can be attached.
pub(crate) const HOOK_NAMES: [&str; 34] = [
    "accept4_entry",
    "accept4_exit",
    "bind_exit",
    "bind_socket_exit",
    "complete_hashdance",
    "conn_request",
    "do_accept_entry",
    "do_accept_exit",
    "inet_sock_set_state",
    "io_uring_complete",
    "io_uring_cqe_overflow",
    "io_uring_submit_req",
    "listen_exit",
    "listen_socket_exit",
    "sched_process_exit",
    "sctp_cookie_echo",
    "sock_graft",
    "socket_accept",
    "socket_accept_lsm",
    "socket_exit",
    "syn_recv_sock_v4",
    "syn_recv_sock_v6",
    "sys_enter",
    "sys_exit",
    "sys_exit_by_perf",
    "tcp_destroy_sock",
    "unix_connect_exit",
    "unix_find_other",
    "unix_release",
    "unix_stream_connect",
    "vsock_alloc_packet",
    "vsock_create_child",
    "vsock_find_bound",
    "vsock_receive",
];
