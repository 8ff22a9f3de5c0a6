//! Constants that the agent sets before it loads the programs: its settings, and offsets into kernel structs.
//! aya freezes them, so the verifier sees constants and removes branches that are never taken.
//!
//! The agent looks them up by name: settings in collector-bridge/src/bpf/loader.rs, offsets in the table of
//! collector-bridge/src/bpf/offsets.rs, which finds each in the kernel's BTF.

use aya_ebpf::Global;

/// The value of an offset on a kernel that does not have the member.
pub const ABSENT: u64 = u64::MAX;

macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<u64> = Global::new(0);)*
    };
}

globals! {
    /// 1: the programs of `trampolines` capture accepts; 2: those of `tracepoints` do.
    TIER;
    /// Process id of the agent, in the host's pid namespace.
    AGENT_TGID;
    /// 1: the agent's own accepts and connections are reported, too.
    RECORD_SELF;
    /// Which related calls are captured: bit N for operation N of `SocketCall`.
    RELATED;
    /// Reported failures for each listener and second.
    FAILURE_BUDGET;
    /// 1: the hooks of accepts and of TCP states have copies ([`crate::copies`]).
    HAS_COPIES;
    /// 1: the open connections of each listener are counted, and how long they were open.
    COUNT_CONNECTIONS;
    /// 1: connections can have a trace.
    TRACES_ENABLED;
    /// 1: `unix_release` is attached, so the close of UNIX connections is seen.
    UNIX_RELEASE_SEEN;
    /// Connections whose randomness is at least this have a trace.
    TRACE_THRESHOLD;
    /// Connections that waited at least this long to be accepted have a trace, too; nanoseconds.
    TRACE_SLOW_NS;
    /// The key of the randomness (`acceptd_common::trace::randomness`).
    TRACE_KEY_0;
    TRACE_KEY_1;
    /// The capture epoch: the boot time at which the programs were loaded, nanoseconds on `CLOCK_BOOTTIME`.
    CAPTURE_EPOCH;
    /// 1: the service's name is read from the environment of processes that begin to listen.
    READ_SERVICE_NAMES;
    /// Bits of the filter keys that have values to include.
    FILTER_INCLUDES;
    /// Bits of the filter keys that have values to exclude.
    FILTER_EXCLUDES;
    /// Bits of the levels of the cgroup hierarchy at which the filter names cgroups.
    FILTER_CGROUP_LEVELS;

    /// System call numbers in the native ABI.
    NR_ACCEPT;
    NR_ACCEPT4;
    NR_CONNECT;
    NR_LISTEN;
    NR_BIND;
    NR_SOCKET;
    /// System call numbers in the compatibility ABI; [`ABSENT`] for a call that it lacks (i386 has no
    /// accept).
    NR_COMPAT_ACCEPT;
    NR_COMPAT_ACCEPT4;
    NR_COMPAT_CONNECT;
    NR_COMPAT_LISTEN;
    NR_COMPAT_BIND;
    NR_COMPAT_SOCKET;
    /// [`ABSENT`] where the compatibility ABI has no socketcall (arm).
    NR_COMPAT_SOCKETCALL;
    /// Bits of the word at `TASK_COMPAT_FLAGS` that are set during a system call of the compatibility ABI.
    COMPAT_MASK;
    /// The word of `task_struct.thread_info` that has these bits.
    TASK_COMPAT_FLAGS;

    PT_REGS_NR;
    PT_REGS_ARG0;
    PT_REGS_ARG1;
    PT_REGS_ARG2;
    /// The result of a function that has returned.
    PT_REGS_RESULT;
    PT_REGS_COMPAT_ARG0;
    PT_REGS_COMPAT_ARG1;
    PT_REGS_COMPAT_ARG2;

    TASK_FILES;
    TASK_PID;
    TASK_TGID;
    TASK_GROUP_LEADER;
    TASK_START_BOOTTIME;
    TASK_SELF_EXEC_ID;
    TASK_CRED;
    TASK_MM;
    TASK_FLAGS;
    TASK_PERSONALITY;
    TASK_COMM;
    TASK_CGROUPS;
    CSS_SET_CGROUP;
    CGROUP_NODE;
    NODE_ID;
    CRED_UID;
    CRED_EUID;
    CRED_EGID;
    MM_EXE_FILE;
    MM_ARG_START;
    MM_ENV_START;
    MM_ENV_END;
    FILE_DENTRY;
    DENTRY_NAME;

    FILES_FDT;
    FDT_FD;
    FDT_MAX_FDS;
    FILE_PRIVATE_DATA;
    FILE_INODE;
    FILE_FLAGS;
    INODE_NUMBER;

    SOCKET_FILE;
    SOCKET_SK;
    /// The number of the inode behind a `struct socket`: `socket_alloc.vfs_inode.i_ino`.
    SOCKET_INODE_NUMBER;
    SK_SOCKET;
    SK_FAMILY;
    SK_PROTOCOL;
    SK_TYPE;
    SK_FLAGS;
    SK_STATE;
    SK_ERR;
    SK_DROPS;
    /// `sk_receive_queue.next` and `.qlen`
    SK_RECEIVE_NEXT;
    SK_RECEIVE_LENGTH;
    SK_COOKIE;
    SK_NET;
    NET_INUM;
    SK_DPORT;
    SK_DADDR;
    SK_RCV_SADDR;
    SK_V6_DADDR;
    SK_V6_RCV_SADDR;
    SK_ACK_BACKLOG;
    SK_MAX_ACK_BACKLOG;
    /// `inet_connection_sock.icsk_accept_queue.qlen`: pending handshakes.
    REQUEST_QUEUE_LENGTH;
    /// `net.ipv4.sysctl_tcp_syncookies`; [`ABSENT`] on a kernel without SYN cookies.
    SYSCTL_SYN_COOKIES;
    SKB_PROTOCOL;
    /// Number of arguments of `unix_find_other`; 0 on a kernel whose BTF lacks the function.
    UNIX_FIND_OTHER_ARGUMENTS;
    INET_SPORT;
    TCP_SRTT_US;
    TCP_TOTAL_RETRANS;
    TCP_BYTES_RECEIVED;
    TCP_BYTES_SENT;
    TCP_BYTES_RETRANS;
    TCP_REQUEST_SNT_SYNACK;
    /// `tcp_sock.rx_opt.ts_recent_stamp`: for a listener, when it last answered with SYN cookies.
    TCP_OVERFLOW_STAMP;
    SK_REUSEPORT;
    REUSEPORT_OVERFLOW_STAMP;
    /// `inet_connection_sock.icsk_accept_queue.rskq_accept_head`
    ACCEPT_QUEUE_HEAD;
    /// `inet_connection_sock.icsk_accept_queue.rskq_defer_accept`
    ACCEPT_QUEUE_DEFER;
    REQUEST_SK;
    UNIX_ADDR;
    UNIX_PEER;
    /// `unix_sock.path`; [`ABSENT`] on a kernel that cannot give the programs a typed `unix_sock`.
    UNIX_PATH;
    SK_PEER_PID;
    PID_NUMBER;
    PID_TASKS;
    TASK_PID_LINKS;
    UNIX_ADDRESS_LEN;
    /// `unix_address.name.sun_path`
    UNIX_ADDRESS_PATH;
    /// Context id and port of both ends of a `vsock_sock`; [`ABSENT`] on a kernel without VSOCK, or with
    /// VSOCK as a module.
    VSOCK_LOCAL_CID;
    VSOCK_LOCAL_PORT;
    VSOCK_REMOTE_CID;
    VSOCK_REMOTE_PORT;
    /// `vsock_sock.accept_queue.next`, likewise.
    VSOCK_ACCEPT_QUEUE;
    /// `smc_sock.clcsock`; [`ABSENT`] on a kernel without SMC, or if the module was not loaded.
    SMC_TCP_SOCKET;
    /// From a worker of the kernel to the name of the work queue that it works for.
    TASK_KTHREAD;
    KTHREAD_DATA;
    WORKER_DESCRIPTION;
    /// Members of `io_kiocb` and `io_accept`; [`ABSENT`] on a kernel without io_uring.
    IO_OPCODE;
    /// `io_kiocb.cqe.fd`: the descriptor, until the request is issued.
    IO_FD;
    IO_FLAGS;
    IO_FILE;
    IO_ACCEPT_FILE_SLOT;
    IO_CQE_RES;
    IO_CQE_FLAGS;
    /// 1: the tracepoint io_uring_complete has the completion as one argument; else it has the parts.
    IO_COMPLETE_BY_CQE;
    /// The ring's table of files in `io_ring_ctx`: an array of pointers to nodes, and its length; since 6.13.
    IO_TABLE_NODES;
    IO_TABLE_NODES_LEN;
    IO_NODE_FILE;
    /// The same before 6.13: an array of words, each the address of a file and some bits.
    IO_TABLE_FILES;
    IO_TABLE_FILES_LEN;
    /// Members of `task_struct` and `seccomp_filter`; [`ABSENT`] on a kernel without seccomp. The last two
    /// are bitmaps by system call number: the filters allow this call whatever its arguments are.
    TASK_SECCOMP_MODE;
    TASK_SECCOMP_FILTER;
    SECCOMP_ALLOWS_NATIVE;
    SECCOMP_ALLOWS_COMPAT;
    /// `seq_file *` of `struct bpf_iter_meta`
    ITER_SEQ;
    /// `mptcp_sock.first`; [`ABSENT`] on a kernel without MPTCP.
    MPTCP_FIRST;
    /// The byte of `tcp_sock.is_mptcp`; [`ABSENT`] on a kernel without MPTCP.
    TCP_IS_MPTCP;
    /// The bits of `is_mptcp` in this byte.
    TCP_IS_MPTCP_MASK;
}
