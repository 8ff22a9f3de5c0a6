//! The ring-buffer samples. Each begins with a [`Header`]; its kind and length say what follows.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::{COMM_LEN, EXE_LEN};

/// What a sample is. Later kinds are added at the end; a number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// [`InetAccept`]: an accept on an `AF_INET` or `AF_INET6` socket.
    InetAccept = 1,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::InetAccept),
            _ => None,
        }
    }
}

/// The first 32 bytes of every sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`crate::ABI_VERSION`] of the programs.
    pub abi: u16,
    /// A [`Kind`].
    pub kind: u16,
    /// Bytes of the whole sample, header included.
    pub length: u32,
    /// CPU that wrote the sample; the sequence counts on this CPU.
    pub cpu: u32,
    /// Always 0.
    pub reserved: u32,
    /// Number of this event on its CPU since the programs were loaded, from 0. A gap is an event that found
    /// the ring full.
    pub sequence: u64,
    /// Nanoseconds on `CLOCK_BOOTTIME` when the event happened (`bpf_ktime_get_boot_ns`).
    pub boot_ns: u64,
}

/// The task that ran the call, and the process that it belongs to.
///
/// A process is identified by `tgid`, `leader_start_ns` and `exec_id` together: a pid is reused, threads have
/// start times of their own, and exec changes neither pid nor start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Task {
    /// `group_leader->start_boottime`, nanoseconds on `CLOCK_BOOTTIME`.
    pub leader_start_ns: u64,
    /// cgroup v2 id of the task (`bpf_get_current_cgroup_id`).
    pub cgroup_id: u64,
    /// `self_exec_id`: grows with each exec of the process.
    pub exec_id: u32,
    /// Process id in the host's pid namespace.
    pub tgid: u32,
    /// Thread id in the host's pid namespace.
    pub tid: u32,
    /// Effective user id (`cred->euid`).
    pub euid: u32,
    /// Effective group id (`cred->egid`).
    pub egid: u32,
    /// Real user id (`cred->uid`).
    pub uid: u32,
    /// 1 when the task has no address space of its own (a kernel thread), else 0.
    pub kernel_thread: u32,
    /// Bytes used of `exe`; 0 when the executable could not be read.
    pub exe_len: u32,
    /// `comm` of the thread, NUL-terminated, any bytes.
    pub comm: [u8; COMM_LEN],
    /// `comm` of the thread group's leader, NUL-terminated, any bytes.
    pub leader_comm: [u8; COMM_LEN],
    /// Basename of the executable (`mm->exe_file`), any bytes but NUL and `/`.
    pub exe: [u8; EXE_LEN],
}

/// An accept on an IPv4 or IPv6 socket: TCP, MPTCP or SCTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InetAccept {
    /// Kind [`Kind::InetAccept`].
    pub header: Header,
    /// The accepting task.
    pub task: Task,
    /// Cookie of the accepted socket (of its first subflow for MPTCP); 0 when it has none.
    pub cookie: u64,
    /// Cookie of the listening socket, likewise.
    pub listener_cookie: u64,
    /// Inode of the accepted socket, the N of `socket:[N]`; 0 when unknown.
    pub inode: u64,
    /// Inode of the listening socket; 0 when unknown.
    pub listener_inode: u64,
    /// Nanoseconds from ESTABLISHED to the return of accept; valid with [`InetAccept::HAS_QUEUE_TIME`].
    pub queue_ns: u64,
    /// Local address of the accepted socket, network order; an IPv4 address is in the first four bytes.
    pub local_addr: [u8; 16],
    /// Peer's address, likewise.
    pub peer_addr: [u8; 16],
    /// Address that the listener is bound to, likewise.
    pub listener_addr: [u8; 16],
    /// Local port of the accepted socket, network order.
    pub local_port: u16,
    /// Peer's port, network order.
    pub peer_port: u16,
    /// Port that the listener is bound to, network order.
    pub listener_port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10) of the accepted socket; 0 when it is gone.
    pub family: u16,
    /// Family of the listening socket; 0 when it is gone.
    pub listener_family: u16,
    /// `sk_protocol`: 6 TCP, 132 SCTP, 262 MPTCP.
    pub protocol: u16,
    /// Which system call: [`InetAccept::SYSCALL_ACCEPT`] or [`InetAccept::SYSCALL_ACCEPT4`].
    pub syscall: u8,
    /// Capture tier, 1 or 2.
    pub tier: u8,
    /// The `HAS_…` and other bits below.
    pub flags: u16,
    /// What the call returned: the new descriptor, or a negative errno.
    pub result: i32,
    /// Descriptor of the listening socket.
    pub listener_fd: i32,
    /// Connections left in the accept queue after this one was taken; with [`InetAccept::HAS_LISTENER`].
    pub backlog_length: u32,
    /// Limit of the accept queue; with [`InetAccept::HAS_LISTENER`].
    pub backlog_limit: u32,
    /// Inode number of the socket's network namespace; 0 when unknown.
    pub netns: u32,
    /// Always 0.
    pub reserved: u32,
}

impl InetAccept {
    /// `syscall`: accept(2).
    pub const SYSCALL_ACCEPT: u8 = 1;
    /// `syscall`: accept4(2).
    pub const SYSCALL_ACCEPT4: u8 = 2;

    /// The accepted socket was found: family, addresses, ports, inode and protocol are valid.
    pub const HAS_SOCKET: u16 = 1;
    /// The listening socket was found.
    pub const HAS_LISTENER: u16 = 1 << 1;
    /// `queue_ns` is valid.
    pub const HAS_QUEUE_TIME: u16 = 1 << 2;
    /// The pending cookie proves that the socket is the one that this call returned.
    pub const VERIFIED: u16 = 1 << 3;
    /// Accepted by the agent, or a connection that the agent opened.
    pub const SELF_ACCEPT: u16 = 1 << 4;
}

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(offset_of!(Header, length) == 4);
    assert!(offset_of!(Header, sequence) == 16);
    assert!(size_of::<Task>() == 144);
    assert!(offset_of!(Task, comm) == 48);
    assert!(offset_of!(InetAccept, task) == size_of::<Header>());
    assert!(offset_of!(InetAccept, cookie) == 176);
    assert!(offset_of!(InetAccept, local_port) == 264);
    assert!(offset_of!(InetAccept, result) == 280);
    assert!(size_of::<InetAccept>() == 304);
};
