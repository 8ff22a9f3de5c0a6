//! The samples in the ring buffer, and the values of the maps that the agent reads. Each sample begins with a
//! [`Header`], whose kind and length say what follows.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    histogram::BUCKETS,
    limits::{COMM_LEN, EXE_LEN, SERVICE_VARIABLE_LEN, UNIX_NAME_LEN},
};

/// The kind of a sample. New kinds are added at the end; a number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// [`InetAccept`]: an accept on an `AF_INET`, `AF_INET6` or `AF_VSOCK` socket.
    InetAccept = 1,
    /// [`UnixAccept`]: an accept on an `AF_UNIX` socket.
    UnixAccept = 2,
    /// [`SocketCall`]: a listen, bind, socket, or an accept that starts.
    SocketCall = 3,
    /// [`ListenerState`]: a TCP listener closed.
    ListenerClosed = 4,
    /// [`ConnectionAbandoned`]: a connection closed before it was accepted.
    ConnectionAbandoned = 5,
    /// [`ConnectionClosed`]: a traced connection closed.
    ConnectionClosed = 6,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::InetAccept),
            2 => Some(Self::UnixAccept),
            3 => Some(Self::SocketCall),
            4 => Some(Self::ListenerClosed),
            5 => Some(Self::ConnectionAbandoned),
            6 => Some(Self::ConnectionClosed),
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
    /// Number of this event on its CPU since the programs were loaded, from 0. A gap stands for events that
    /// found the ring full.
    pub sequence: u64,
    /// Nanoseconds on `CLOCK_BOOTTIME` when the event happened (`bpf_ktime_get_boot_ns`).
    pub boot_ns: u64,
}

/// A task, and the process that it belongs to.
///
/// A process is identified by `tgid`, `leader_start_ns` and `exec_id` together: a pid is reused, threads have
/// start times of their own, and exec changes neither pid nor start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Task {
    /// `group_leader->start_boottime`, nanoseconds on `CLOCK_BOOTTIME`.
    pub leader_start_ns: u64,
    /// cgroup v2 id of the task; 0 when it could not be read.
    pub cgroup_id: u64,
    /// `mm->arg_start`, the address of its arguments, which differs after each exec (address space layout
    /// randomization); 0 for a kernel thread.
    pub arg_start: u64,
    /// Inode number of the executable (`mm->exe_file`); 0 for a kernel thread.
    pub exe_inode: u64,
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

/// A call of accept: by system call, io_uring or the kernel itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AcceptCall {
    /// Nanoseconds from ESTABLISHED to the return of accept; valid with [`AcceptCall::HAS_QUEUE_TIME`].
    pub queue_ns: u64,
    /// Nanoseconds from the entry of the call to its return; valid with [`AcceptCall::HAS_BLOCKED_TIME`].
    pub blocked_ns: u64,
    /// A negative errno, or with [`AcceptCall::HAS_FD`] the new descriptor. Without `HAS_FD`: a slot of the
    /// ring's file table, or 0 if unknown.
    pub result: i32,
    /// Descriptor of the listening socket; valid with [`AcceptCall::HAS_LISTENER_FD`].
    pub listener_fd: i32,
    /// The `HAS_…` and other bits below.
    pub flags: u16,
    /// How it was made: one of the `SYSCALL_…` below.
    pub syscall: u8,
    /// Capture tier, 1 or 2.
    pub tier: u8,
    /// Always 0.
    pub reserved: u32,
}

impl AcceptCall {
    /// `syscall`: accept(2).
    pub const SYSCALL_ACCEPT: u8 = 1;
    /// `syscall`: accept4(2).
    pub const SYSCALL_ACCEPT4: u8 = 2;
    /// `syscall`: a request of io_uring.
    pub const SYSCALL_IO_URING: u8 = 3;
    /// `syscall`: no system call; the kernel itself accepted (`kernel_accept`, net/socket.c).
    pub const SYSCALL_KERNEL: u8 = 4;

    /// The accepted socket was found.
    pub const HAS_SOCKET: u16 = 1;
    /// The listening socket was found.
    pub const HAS_LISTENER: u16 = 1 << 1;
    /// `queue_ns` is valid.
    pub const HAS_QUEUE_TIME: u16 = 1 << 2;
    /// The socket is certainly the one that this call returned. Tier 1 gets it from the kernel; in tier 2 its
    /// cookie was pending.
    pub const VERIFIED: u16 = 1 << 3;
    /// The agent accepted, or it opened the connection.
    pub const SELF_ACCEPT: u16 = 1 << 4;
    /// `blocked_ns` is valid.
    pub const HAS_BLOCKED_TIME: u16 = 1 << 5;
    /// `listener_fd` is valid.
    pub const HAS_LISTENER_FD: u16 = 1 << 6;
    /// `result` is a descriptor or an errno. Not set for a slot, nor when the descriptor is unknown.
    pub const HAS_FD: u16 = 1 << 7;
}

/// The handshake of a TCP connection, as the server's kernel measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Handshake {
    /// Nanoseconds from the first SYN-ACK to the final ACK, or with [`Self::DEFERRED`] to the client's first
    /// data; 0 when unknown (SYN cookies, fast open).
    pub time_ns: u64,
    /// Smoothed round-trip time at ESTABLISHED, in nanoseconds (from `tcp_sock.srtt_us`, which counts eighths
    /// of a microsecond); 0 when unknown.
    pub rtt_ns: u64,
    /// Retransmitted SYN-ACKs.
    pub synack_retransmits: u32,
    /// 0 when the figures above are not valid: the programs did not see the connection being established, or
    /// it may have been established by a SYN cookie. Else one of the constants below.
    pub known: u32,
}

impl Handshake {
    /// The figures are those of the handshake.
    pub const MEASURED: u32 = 1;
    /// The listener defers accepts (`TCP_DEFER_ACCEPT`), so the times are those of the client's silence.
    pub const DEFERRED: u32 = 2;
}

/// A connected IPv4, IPv6 or VSOCK socket: the server's end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Connection {
    /// Cookie (of the first subflow for MPTCP); 0 when it has none.
    pub cookie: u64,
    /// Inode, the N of `socket:[N]`; 0 when unknown.
    pub inode: u64,
    /// Local address, network order; an IPv4 address is in the first four bytes. For VSOCK, the context id
    /// and then the port, four bytes each in host order.
    pub local_addr: [u8; 16],
    /// Peer's address, likewise.
    pub peer_addr: [u8; 16],
    /// Inode number of the network namespace; 0 when unknown.
    pub netns: u32,
    /// Local port, network order.
    pub local_port: u16,
    /// Peer's port, network order.
    pub peer_port: u16,
    /// `AF_INET` (2), `AF_INET6` (10) or `AF_VSOCK` (40).
    pub family: u16,
    /// `sk_protocol`: 6 TCP, 132 SCTP, 262 MPTCP, 0 VSOCK.
    pub protocol: u16,
    /// Always 0.
    pub reserved: u32,
}

/// A socket that listens, or that is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Listener {
    /// Cookie (of the first subflow for MPTCP); 0 when it has none.
    pub cookie: u64,
    /// Inode, the N of `socket:[N]`; 0 when unknown.
    pub inode: u64,
    /// Address that the socket is bound to, as in [`Connection::local_addr`]; 0 for UNIX.
    pub addr: [u8; 16],
    /// Inode number of the network namespace; 0 when unknown.
    pub netns: u32,
    /// Connections in the accept queue.
    pub backlog_length: u32,
    /// Limit of the accept queue.
    pub backlog_limit: u32,
    /// Packets that were dropped since the socket was created (`sk_drops`): also others than those that the
    /// full queue refused, and some of these twice.
    pub drops: u32,
    /// Port that the socket is bound to, network order.
    pub port: u16,
    /// Family; 0 when the socket is gone.
    pub family: u16,
    /// `sk_protocol`
    pub protocol: u16,
    /// `sk_type`: `SOCK_STREAM` (1), `SOCK_SEQPACKET` (5), …
    pub socket_type: u16,
}

/// The name of a UNIX socket: a path, or NUL and an abstract name of any bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnixName {
    /// Bytes used of `bytes`; 0 for an unnamed socket. A path's count includes its final NUL.
    pub length: u32,
    /// `sun_path`
    pub bytes: [u8; UNIX_NAME_LEN],
}

impl UnixName {
    /// The bytes that are used: all of them if the length is none that a name has.
    #[must_use]
    pub fn used(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or(0).min(self.bytes.len());
        &self.bytes[..length]
    }
}

/// An accept on an IPv4, IPv6 or VSOCK socket: TCP, MPTCP, SCTP or VSOCK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InetAccept {
    /// Kind [`Kind::InetAccept`].
    pub header: Header,
    /// The accepting task.
    pub task: Task,
    /// The call.
    pub call: AcceptCall,
    /// The accepted socket; with [`AcceptCall::HAS_SOCKET`].
    pub socket: Connection,
    /// The listening socket, after the dequeue; with [`AcceptCall::HAS_LISTENER`].
    pub listener: Listener,
    /// How the connection was established.
    pub handshake: Handshake,
    /// Whether the connection has a trace.
    pub trace: TraceDecision,
    /// The process that connected, if that was on this host.
    pub peer: PeerProcess,
}

/// An accept on a UNIX socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnixAccept {
    /// Kind [`Kind::UnixAccept`].
    pub header: Header,
    /// The accepting task.
    pub task: Task,
    /// The call.
    pub call: AcceptCall,
    /// The listening socket, after the dequeue; with [`AcceptCall::HAS_LISTENER`].
    pub listener: Listener,
    /// Inode of the accepted socket, the N of `socket:[N]`; 0 when unknown.
    pub inode: u64,
    /// Cookie of the accepted socket; 0 when it has none, which is the rule for UNIX sockets.
    pub cookie: u64,
    /// Inode number of the network namespace; 0 when unknown.
    pub netns: u32,
    /// Always 0.
    pub reserved: u32,
    /// The name of the accepted socket, which is that of its listener; the listener's when the accept failed.
    pub local: UnixName,
    /// The peer's name.
    pub peer: UnixName,
    /// Whether the connection has a trace.
    pub trace: TraceDecision,
    /// The process that connected.
    pub peer_process: PeerProcess,
}

/// The variable `OTEL_SERVICE_NAME` in the environment of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceVariable {
    /// `NAME=VALUE`, padded with NULs. Zero if there is no such variable, or if it was not read.
    pub bytes: [u8; SERVICE_VARIABLE_LEN],
}

/// A listen, bind or socket call that returned, or an accept that starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketCall {
    /// Kind [`Kind::SocketCall`].
    pub header: Header,
    /// The calling task.
    pub task: Task,
    /// The socket after the call; its family is 0 when the socket was not found.
    pub socket: Listener,
    /// The return value: 0, the new descriptor, or a negative errno. 0 for an attempt.
    pub result: i32,
    /// The descriptor of the socket; negative when unknown.
    pub fd: i32,
    /// The second argument of listen.
    pub backlog: i32,
    /// The call: one of the constants below.
    pub operation: u8,
    /// For an attempt, how it was made: one of `AcceptCall::SYSCALL_…`; else 0.
    pub syscall: u8,
    /// Capture tier, 1 or 2.
    pub tier: u8,
    /// Always 0.
    pub reserved: u8,
    /// The name of a UNIX socket.
    pub name: UnixName,
    /// After a listen that succeeded, the name of the service in the process's environment.
    pub service: ServiceVariable,
}

impl SocketCall {
    /// `operation`: listen(2) returned.
    pub const LISTEN: u8 = 1;
    /// `operation`: bind(2) returned.
    pub const BIND: u8 = 2;
    /// `operation`: socket(2) returned.
    pub const CREATE: u8 = 3;
    /// `operation`: an accept starts.
    pub const ATTEMPT: u8 = 4;
}

/// The state of one listener, when it closed or when the survey visited it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenerState {
    /// Kind [`Kind::ListenerClosed`].
    pub header: Header,
    /// A process that has the listener open. When it closed: the task that closed it, which may be exiting;
    /// then nothing is known of its executable.
    pub owner: Task,
    /// The listener.
    pub listener: Listener,
    /// An id of the oldest connection in the queue, to compare with that of another survey; 0 when the queue
    /// is empty.
    pub oldest: u64,
    /// When the oldest connection was established, nanoseconds on `CLOCK_BOOTTIME`; 0 when unknown.
    pub oldest_since_ns: u64,
    /// The listener's descriptor in the owner.
    pub fd: i32,
    /// Always 0.
    pub reserved: u32,
    /// The name of a UNIX listener.
    pub name: UnixName,
    /// The counts of its full queue; always zero in tier 2.
    pub refused: RefusedAttempts,
}

/// A row of the survey of listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SurveyRow {
    /// The listener. Its name is the one that it was bound to.
    pub state: ListenerState,
    /// The path that a UNIX listener's file has now, as an absolute path in the mount namespace of the
    /// process that bound it. With a suffix ` (deleted)` if the file was removed. Empty if the listener has
    /// no file, or if the path is too long.
    pub path: UnixName,
}

/// The connection attempts that the full accept queue of a listener refused since the programs were loaded:
/// value of the map `REFUSED`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RefusedAttempts {
    /// Connection attempts that were refused. For TCP, what the kernel counts as `ListenOverflows`.
    pub refused: u64,
    /// Calls of connect that waited until the queue had room (UNIX sockets).
    pub waited: u64,
    /// How long these waited together, in nanoseconds.
    pub waited_ns: u64,
}

/// A UNIX socket to which a process could not connect: key of the map `UNIX_REFUSED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnixTarget {
    /// Inode number of the network namespace of the process's socket.
    pub netns: u32,
    /// The process that connects.
    pub tgid: u32,
    /// The name that it connects to.
    pub name: UnixName,
}

/// A connection that was established, and closed before it was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionAbandoned {
    /// Kind [`Kind::ConnectionAbandoned`].
    pub header: Header,
    /// The connection.
    pub socket: Connection,
    /// Nanoseconds from ESTABLISHED to the close; 0 when unknown.
    pub queue_ns: u64,
    /// Cookie of the listener that closed with the connection in its queue; 0 when unknown.
    pub listener_cookie: u64,
}

/// The process at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PeerProcess {
    /// Process id in the host's pid namespace; 0 when it is not known.
    pub tgid: u32,
    /// Bytes used of `exe`; 0 when the executable could not be read.
    pub exe_len: u32,
    /// Basename of the executable, any bytes but NUL and `/`.
    pub exe: [u8; EXE_LEN],
}

impl PeerProcess {
    /// The process is not known.
    pub const NONE: Self = Self { tgid: 0, exe_len: 0, exe: [0; EXE_LEN] };
}

/// A process that connects within this host: value of the map `CLIENTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClientProcess {
    /// When it began to connect, nanoseconds on `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// 1 once the server's end is established. From then on the server's side removes this entry.
    pub server_established: u64,
    /// The process.
    pub peer: PeerProcess,
}

/// Whether a connection has a trace. The programs decide it once, at the accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceDecision {
    /// Nanoseconds since the Unix epoch at which `CLOCK_BOOTTIME` was 0, as known at the accept. All times of
    /// the trace use this anchor.
    pub anchor_ns: u64,
    /// The threshold that the connection's randomness was compared with.
    pub threshold: u64,
    /// The bits below; 0 when the connection has no trace.
    pub flags: u32,
    /// Always 0.
    pub reserved: u32,
}

impl TraceDecision {
    /// The connection has a trace because of its randomness.
    pub const BY_RATIO: u32 = 1;
    /// The connection has a trace because it waited long to be accepted.
    pub const SLOW: u32 = 1 << 1;
    /// The connection was established before the programs were loaded.
    pub const PREEXISTING: u32 = 1 << 2;
    /// The connection is one of Multipath TCP. The subflow whose close is reported does not show that.
    pub const MPTCP: u32 = 1 << 3;
    /// The kernel's smoothed round-trip time began with a value that is not the network's: the accept was
    /// deferred, a SYN-ACK was sent again, or the connection may have used a SYN cookie.
    pub const FALSE_ROUND_TRIP: u32 = 1 << 4;
    /// The bits of which at least one is set when the connection has a trace.
    pub const TRACED: u32 = Self::BY_RATIO | Self::SLOW;
}

/// An open connection that has a trace: value of the pinned maps, which outlive the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TracedConnection {
    /// When it was accepted, nanoseconds on `CLOCK_BOOTTIME`; 0 while the entry is incomplete.
    pub accepted_ns: u64,
    /// When it began: when the SYN-ACK was sent, else when it was established, else when it was accepted.
    pub began_ns: u64,
    /// The decision to trace it.
    pub trace: TraceDecision,
    /// The task that accepted it.
    pub task: Task,
    /// The capture epoch that saw the connection last: the boot time at which its programs were loaded, in
    /// nanoseconds on `CLOCK_BOOTTIME`.
    pub capture_epoch: u64,
}

/// A connection with a trace closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionClosed {
    /// Kind [`Kind::ConnectionClosed`].
    pub header: Header,
    /// The connection as it was stored at the accept.
    pub traced: TracedConnection,
    /// The addresses of the connection; for a UNIX socket, all zero except cookie, network namespace and
    /// family.
    pub socket: Connection,
    /// Bytes of payload that arrived; valid with [`ConnectionClosed::HAS_TCP`].
    pub received: u64,
    /// Bytes of payload that were sent, without retransmissions; valid with [`ConnectionClosed::HAS_TCP`].
    pub sent: u64,
    /// Smoothed round-trip time at the close, nanoseconds; 0 when unknown.
    pub rtt_ns: u64,
    /// Retransmitted segments; valid with [`ConnectionClosed::HAS_TCP`].
    pub retransmits: u32,
    /// The error of the socket (`sk_err`); 0 without one.
    pub error: u32,
    /// The state before the close, `TCP_…`; 0 when unknown.
    pub old_state: u8,
    /// The bits below.
    pub flags: u8,
    /// Always 0.
    pub reserved: [u8; 6],
    /// The name of a UNIX socket.
    pub local: UnixName,
    /// The name of a UNIX socket's peer.
    pub peer: UnixName,
}

impl ConnectionClosed {
    /// The TCP figures are valid.
    pub const HAS_TCP: u8 = 1;
}

/// The connections of one listener that were accepted since the programs were loaded: value of the map
/// `CONNECTION_STATS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionStats {
    /// Accepted connections.
    pub accepted: u64,
    /// Connections of these that closed.
    pub closed: u64,
    /// The sum of the times that the closed ones were open, in nanoseconds.
    pub total_open_ns: u64,
    /// The closed ones by the time that they were open; see [`crate::histogram`].
    pub buckets: [u64; BUCKETS],
}

/// Key of the map `FAILURES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FailureKey {
    /// Inode of the listener; 0 when the descriptor is not a socket.
    pub listener: u64,
    /// The process.
    pub tgid: u32,
    /// The error of accept.
    pub errno: u32,
}

/// Value of the map `FAILURES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FailureStats {
    /// Failures since the programs were loaded.
    pub count: u64,
    /// The task of the first failure.
    pub task: Task,
    /// The listener at the first failure; its family is 0 without a listener.
    pub socket: Listener,
}

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(offset_of!(Header, length) == 4);
    assert!(offset_of!(Header, sequence) == 16);
    assert!(size_of::<Task>() == 160);
    assert!(offset_of!(Task, comm) == 64);
    assert!(size_of::<AcceptCall>() == 32);
    assert!(size_of::<Connection>() == 64);
    assert!(size_of::<Listener>() == 56);
    assert!(size_of::<UnixName>() == 112);
    assert!(size_of::<Handshake>() == 24);
    assert!(size_of::<InetAccept>() == 464);
    assert!(offset_of!(InetAccept, task) == size_of::<Header>());
    assert!(offset_of!(InetAccept, socket) == 224);
    assert!(size_of::<UnixAccept>() == 624);
    assert!(offset_of!(UnixAccept, local) == 304);
    assert!(size_of::<SocketCall>() == 504);
    assert!(size_of::<ListenerState>() == 408);
    assert!(size_of::<UnixTarget>() == 120);
    assert!(size_of::<ConnectionAbandoned>() == 112);
    assert!(size_of::<TracedConnection>() == 208);
    assert!(size_of::<ConnectionClosed>() == 568);
};
