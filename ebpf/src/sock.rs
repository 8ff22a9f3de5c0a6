//! `struct sock`: the fields of a socket, its cookie, and how it is described in a sample.

use acceptd_common::{Connection, Listener, UnixName, limits::UNIX_NAME_LEN};
use aya_ebpf::{
    Global,
    helpers::{
        bpf_probe_read_kernel_buf,
        generated::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock, bpf_skc_to_unix_sock},
    },
};

use crate::{
    offsets::*,
    read::{AnyStruct, Probed, Sock, Socket, Typed},
    uapi::{
        AF_INET, AF_INET6, AF_SMC, AF_UNIX, AF_VSOCK, IPPROTO_MPTCP, IPPROTO_SCTP, IPPROTO_SMC, IPPROTO_TCP,
        SOCK_DEAD, SOCK_SEQPACKET, SOCK_STREAM, TCP_ESTABLISHED, TCP_LISTEN,
    },
};

/// A `struct sock` whose type the verifier knows. Only such a socket has storage, can be given a cookie, and
/// can be loaded from without a helper.
pub type TypedSock = Typed<Sock>;

/// A `struct sock` of which only the address is known: found through a file descriptor, or copied from a
/// [`TypedSock`] for code that serves both. Null means that there is no socket.
pub type ProbedSock = Probed<Sock>;

/// An IPv6 address as four words; an IPv4 address is the first.
pub type Address = [u32; 4];

/// A socket with the inode of its file.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FileSock {
    pub sk: ProbedSock,
    /// The N of `socket:[N]`; 0 when it has no file.
    pub inode: u64,
}

impl FileSock {
    /// No socket. Structs on the stack have no `Option` fields: LLVM leaves the rest of a `None`
    /// uninitialised and copies it all the same, which the verifier of 6.1 refuses.
    pub const NONE: Self = Self { sk: ProbedSock::NULL, inode: 0 };

    #[inline(always)]
    pub fn exists(self) -> bool {
        !self.sk.is_null()
    }
}

/// Whether acceptd records connections of this address family.
#[inline(always)]
pub fn is_recorded_family(family: u16) -> bool {
    matches!(family, AF_UNIX | AF_INET | AF_INET6 | AF_VSOCK)
}

/// Whether sockets of this type can be accepted on.
#[inline(always)]
pub fn can_listen(socket_type: u16) -> bool {
    matches!(socket_type, SOCK_STREAM | SOCK_SEQPACKET)
}

impl TypedSock {
    /// The socket of a `struct socket`; null if it has none.
    #[inline(always)]
    pub fn from_socket(socket: Typed<Socket>) -> Self {
        socket.follow(&SOCKET_SK)
    }

    /// The cookie that the socket already has, or 0. That of an MPTCP main socket is its listener's; see
    /// [`ProbedSock::identity`].
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        self.load(&SK_COOKIE)
    }

    /// The socket's cookie, which is made if it has none. An MPTCP main socket is never given one, nor is one
    /// of SCTP that is not connected: the sockets that it accepts would inherit the cookie, and applications
    /// would see that (SCTP: `sctp_accept` of Linux 7). For these the result is 0, or the cookie that the
    /// application asked for.
    #[inline(always)]
    pub fn make_cookie(self) -> u64 {
        match self.load::<u16>(&SK_PROTOCOL) {
            IPPROTO_MPTCP => return 0,
            IPPROTO_SCTP if self.load::<u8>(&SK_STATE) != TCP_ESTABLISHED => return self.cookie(),
            _ => {}
        }
        // SAFETY: `self` is typed.
        unsafe { bpf_get_socket_cookie(self.as_ptr()) }
    }

    /// Whether an accept returned this socket, at any time before: it belongs to a `struct socket`, or did so
    /// before it was closed (`sock_orphan`). A connection that is closed in the accept queue is orphaned only
    /// after its state is CLOSE (`inet_child_forget`, net/ipv4/inet_connection_sock.c), so this is valid
    /// until then.
    #[inline(always)]
    pub fn was_accepted(self) -> bool {
        self.load::<u64>(&SK_SOCKET) != 0 || self.load::<u64>(&SK_FLAGS) >> SOCK_DEAD & 1 != 0
    }

    /// The same socket as a `struct tcp_sock`; null if it is not one of TCP, or only a request or in
    /// TIME_WAIT.
    #[inline(always)]
    pub fn tcp(self) -> Self {
        // SAFETY: `self` is typed, and the helper returns a `struct tcp_sock *` or null.
        unsafe { Self::new(bpf_skc_to_tcp_sock(self.as_ptr()) as *const u8) }
    }

    /// The same socket as a `struct unix_sock`; null if it is not one.
    #[inline(always)]
    pub fn unix(self) -> Self {
        // SAFETY: `self` is typed, and the helper returns a `struct unix_sock *` or null.
        unsafe { Self::new(bpf_skc_to_unix_sock(self.as_ptr()) as *const u8) }
    }
}

impl ProbedSock {
    /// This socket, or `other` if this is null.
    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        if self.is_null() { other } else { self }
    }

    #[inline(always)]
    pub fn family(self) -> u16 {
        self.load(&SK_FAMILY)
    }

    #[inline(always)]
    pub fn protocol(self) -> u16 {
        self.load(&SK_PROTOCOL)
    }

    #[inline(always)]
    pub fn socket_type(self) -> u16 {
        self.load(&SK_TYPE)
    }

    #[inline(always)]
    pub fn is_listening(self) -> bool {
        self.load::<u8>(&SK_STATE) == TCP_LISTEN
    }

    /// Whether an accept has returned this socket. Until then it has no `struct socket`; accept gives it one
    /// (`sock_graft`).
    #[inline(always)]
    pub fn is_accepted(self) -> bool {
        !self.follow::<Socket>(&SK_SOCKET).is_null()
    }

    /// The socket whose cookie and accept queue count: the first subflow of an MPTCP main socket, else the
    /// socket itself. An accepted MPTCP main socket inherits its listener's cookie, which is not unique.
    #[inline(always)]
    pub fn identity(self) -> Self {
        if self.is_mptcp() && MPTCP_FIRST.load() != ABSENT { self.follow(&MPTCP_FIRST) } else { self }
    }

    /// Whether this listener, or its `SO_REUSEPORT` group, ever answered with SYN cookies; then any of its
    /// connections may have been established with one (`tcp_synq_overflow`, include/net/tcp.h). The kernel
    /// keeps the time only in jiffies. Not inlined: its caller has no room on the stack for these loads.
    #[inline(never)]
    pub fn sent_syn_cookies(self) -> bool {
        let tcp = self.identity();
        let group: Probed<AnyStruct> = tcp.follow(&SK_REUSEPORT);
        let stamp: u32 = if group.is_null() {
            tcp.load(&TCP_OVERFLOW_STAMP)
        } else {
            group.load(&REUSEPORT_OVERFLOW_STAMP)
        };
        stamp != 0
    }

    /// Whether this listener has `TCP_DEFER_ACCEPT`.
    #[inline(always)]
    pub fn defers_accepts(self) -> bool {
        self.identity().load::<u8>(&ACCEPT_QUEUE_DEFER) != 0
    }

    /// For an SMC socket its TCP socket, which has the addresses; for all others the socket itself. The two
    /// belong to one file, and after a fallback to TCP the file has the TCP socket.
    #[inline(always)]
    pub fn without_smc(self) -> Self {
        let is_smc = self.family() == AF_SMC || self.protocol() == IPPROTO_SMC;
        if SMC_TCP_SOCKET.load() == ABSENT || !is_smc {
            return self;
        }
        self.follow::<Socket>(&SMC_TCP_SOCKET).follow::<Sock>(&SOCKET_SK).or(self)
    }

    /// Whether this is the main socket of a Multipath TCP connection.
    #[inline(always)]
    pub fn is_mptcp(self) -> bool {
        self.protocol() == IPPROTO_MPTCP
    }

    /// Whether this is a TCP socket that belongs to a Multipath TCP connection.
    #[inline(always)]
    pub fn is_mptcp_subflow(self) -> bool {
        TCP_IS_MPTCP.load() != ABSENT
            && self.protocol() == IPPROTO_TCP
            && matches!(self.family(), AF_INET | AF_INET6)
            && self.load::<u8>(&TCP_IS_MPTCP) & TCP_IS_MPTCP_MASK.load() as u8 != 0
    }

    /// The cookie that the socket already has, or 0. It is never made here: the application that owns the
    /// socket would see it.
    #[inline(always)]
    pub fn identity_cookie(self) -> u64 {
        self.identity().load(&SK_COOKIE)
    }

    #[inline(always)]
    pub fn local_address(self) -> Address {
        match self.family() {
            AF_UNIX => [0; 4],
            AF_VSOCK => self.vsock_address(&VSOCK_LOCAL_CID, &VSOCK_LOCAL_PORT),
            family => self.inet_address(family, &SK_RCV_SADDR, &SK_V6_RCV_SADDR),
        }
    }

    #[inline(always)]
    pub fn peer_address(self) -> Address {
        match self.family() {
            AF_UNIX => [0; 4],
            AF_VSOCK => self.vsock_address(&VSOCK_REMOTE_CID, &VSOCK_REMOTE_PORT),
            family => self.inet_address(family, &SK_DADDR, &SK_V6_DADDR),
        }
    }

    #[inline(always)]
    fn inet_address(self, family: u16, v4: &Global<u64>, v6: &Global<u64>) -> Address {
        if family == AF_INET6 { self.load(v6) } else { [self.load(v4), 0, 0, 0] }
    }

    #[inline(always)]
    fn vsock_address(self, cid: &Global<u64>, port: &Global<u64>) -> Address {
        if cid.load() == ABSENT {
            // VMADDR_CID_ANY and VMADDR_PORT_ANY stand for unknown.
            return [u32::MAX, u32::MAX, 0, 0];
        }
        [self.load(cid), self.load(port), 0, 0]
    }

    /// The local port, network order: `inet_sport`, since `skc_num` is 0 once the peer reset the connection.
    #[inline(always)]
    pub fn local_port(self) -> u16 {
        match self.family() {
            AF_INET | AF_INET6 => self.load(&INET_SPORT),
            _ => 0,
        }
    }

    /// The peer's port, network order.
    #[inline(always)]
    pub fn peer_port(self) -> u16 {
        match self.family() {
            AF_INET | AF_INET6 => self.load(&SK_DPORT),
            _ => 0,
        }
    }

    /// The inode number of the network namespace.
    #[inline(always)]
    pub fn netns(self) -> u32 {
        self.follow::<AnyStruct>(&SK_NET).load(&NET_INUM)
    }

    /// Connections in the accept queue, and its limit. UNIX listeners queue connections as they queue data.
    #[inline(always)]
    fn backlog(self) -> (u32, u32) {
        let identity = self.identity();
        let length = if self.family() == AF_UNIX { &SK_RECEIVE_LENGTH } else { &SK_ACK_BACKLOG };
        (identity.load(length), identity.load(&SK_MAX_ACK_BACKLOG))
    }

    /// Whether an accept on `listener` can have returned this socket.
    #[inline(always)]
    pub fn may_come_from(self, listener: Self) -> bool {
        self.family() == listener.family()
            && self.protocol() == listener.protocol()
            && self.local_port() == listener.local_port()
            && self.netns() == listener.netns()
    }

    /// Describes the socket as a listener.
    #[inline(always)]
    pub fn describe_listener(self, inode: u64, out: &mut Listener) {
        out.cookie = self.identity_cookie();
        out.inode = inode;
        out.addr = address_bytes(self.local_address());
        out.netns = self.netns();
        (out.backlog_length, out.backlog_limit) = self.backlog();
        out.drops = self.identity().load(&SK_DROPS);
        out.port = self.local_port();
        out.family = self.family();
        out.protocol = self.protocol();
        out.socket_type = self.socket_type();
    }

    /// Describes the socket as a connection.
    #[inline(always)]
    pub fn describe_connection(self, inode: u64, out: &mut Connection) {
        out.cookie = self.identity_cookie();
        out.inode = inode;
        out.local_addr = address_bytes(self.local_address());
        out.peer_addr = address_bytes(self.peer_address());
        out.netns = self.netns();
        out.local_port = self.local_port();
        out.peer_port = self.peer_port();
        out.family = self.family();
        out.protocol = self.protocol();
    }

    /// Copies the name of a UNIX socket; `out` is zero. The name has a length, and may begin with NUL and
    /// contain others (`unix_mkname_bsd`, net/unix/af_unix.c).
    #[inline(always)]
    pub fn unix_name(self, out: &mut UnixName) {
        let address: Probed<AnyStruct> = self.follow(&UNIX_ADDR);
        if address.is_null() {
            return;
        }
        // The kernel's length includes the family.
        let length = address.load::<u32>(&UNIX_ADDRESS_LEN).saturating_sub(2);
        copy_name(
            length,
            out,
            #[inline(always)]
            |to| {
                // SAFETY: the helper takes any address, and fails on one that cannot be read.
                unsafe { bpf_probe_read_kernel_buf(address.member(&UNIX_ADDRESS_PATH), to) }.is_ok()
            },
        );
    }

    /// Copies the name of the UNIX socket at the other end; `out` is zero.
    #[inline(always)]
    pub fn unix_peer_name(self, out: &mut UnixName) {
        let peer: Self = self.follow(&UNIX_PEER);
        if !peer.is_null() {
            peer.unix_name(out);
        }
    }
}

/// Lets `read` fill a name of `length` bytes. A length that no name has leaves `out` as it is.
#[inline(always)]
pub fn copy_name(length: u32, out: &mut UnixName, read: impl FnOnce(&mut [u8]) -> bool) {
    if length == 0 || length > UNIX_NAME_LEN as u32 {
        return;
    }
    if read(&mut out.bytes[..length as usize]) {
        out.length = length;
    }
}

/// The bytes of an address as they are in memory: network order for IPv4 and IPv6.
#[inline(always)]
pub fn address_bytes(address: Address) -> [u8; 16] {
    let mut out = [0; 16];
    let [a, b, c, d] = address.map(u32::to_ne_bytes);
    out[..4].copy_from_slice(&a);
    out[4..8].copy_from_slice(&b);
    out[8..12].copy_from_slice(&c);
    out[12..].copy_from_slice(&d);
    out
}
