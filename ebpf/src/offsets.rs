//! What the agent finds out before it loads the programs. aya freezes these, so the verifier sees constants.
//!
//! The names are the keys of the agent's table (collector-bridge/src/bpf/offsets.rs), which finds each offset in
//! the kernel's BTF.

use aya_ebpf::Global;

macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<u64> = Global::new(0);)*
    };
}

globals! {
    /// Process id of the agent, in the host's pid namespace.
    AGENT_TGID;
    /// 1: accepts of the agent's own are records too.
    RECORD_SELF;
    /// System call numbers of accept and accept4 in the native ABI.
    NR_ACCEPT;
    NR_ACCEPT4;
    /// Number of accept in the compatibility ABI, or `u64::MAX` (i386 has none).
    NR_COMPAT_ACCEPT;
    NR_COMPAT_ACCEPT4;
    /// Number of socketcall in the compatibility ABI, or `u64::MAX` (arm has none).
    NR_COMPAT_SOCKETCALL;
    /// Bits of `COMPAT_FLAGS` that say "this system call came through the compatibility ABI".
    COMPAT_MASK;
    /// `task_struct.thread_info`, and in it the word that has those bits.
    TASK_COMPAT_FLAGS;

    PT_REGS_NR;
    PT_REGS_ARG0;
    PT_REGS_COMPAT_ARG0;
    PT_REGS_COMPAT_ARG1;

    TASK_FILES;
    TASK_GROUP_LEADER;
    TASK_START_BOOTTIME;
    TASK_SELF_EXEC_ID;
    TASK_CRED;
    TASK_MM;
    TASK_COMM;
    CRED_UID;
    CRED_EUID;
    CRED_EGID;
    MM_EXE_FILE;
    FILE_DENTRY;
    DENTRY_NAME;

    FILES_FDT;
    FDT_FD;
    FDT_MAX_FDS;
    FILE_PRIVATE_DATA;
    FILE_INODE;
    INODE_NUMBER;

    SOCKET_FILE;
    SOCKET_SK;
    SK_SOCKET;
    SK_FAMILY;
    SK_PROTOCOL;
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
    INET_SPORT;
    /// `mptcp_sock.first`, or `u64::MAX` on a kernel without MPTCP.
    MPTCP_FIRST;
}
