//! Reading sockets: from a descriptor to its socket, and what a socket says about itself.

use acceptd_common::{Connection, Listener, UnixName, limits::UNIX_NAME_LEN};
use aya_ebpf::helpers::{
    bpf_probe_read_kernel_buf,
    generated::{bpf_get_current_task_btf, bpf_get_socket_cookie, bpf_sock_from_file},
};

use crate::{
    offsets::*,
    read::{
        probed, probed_ptr, typed, {self},
    },
};

pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const AF_VSOCK: u16 = 40;
// include/uapi/linux/in.h
pub const IPPROTO_TCP: u16 = 6;
pub const IPPROTO_MPTCP: u16 = 262;
// include/linux/net.h
const SOCK_STREAM: u16 = 1;
const SOCK_SEQPACKET: u16 = 5;
/// `TCP_LISTEN`, include/net/tcp_states.h; UNIX and VSOCK sockets use it too.
const LISTEN: u8 = 10;

pub const ABSENT: u64 = u64::MAX;
/// An IPv6 address as four words; an IPv4 address is the first.
pub type Address = [u32; 4];

/// A connection, named from the side that opened it. IPv4-mapped addresses are kept as IPv4, so that both ends
/// have one name for it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Tuple {
    pub client: Address,
    pub server: Address,
    /// Network order.
    pub client_port: u16,
    /// Network order.
    pub server_port: u16,
    pub netns: u32,
}

/// A `struct sock` and the inode of its file. Whether the verifier knows the type depends on where it is from: of sockets
/// found by descriptor it does not.
#[derive(Clone, Copy)]
pub struct Socket {
    pub sk: *const u8,
    pub inode: u64,
}

/// The socket behind a descriptor of the current process; [`Socket::NONE`] if it is none. A sibling thread may have closed or
/// replaced the descriptor since: only the pending cookie proves that this is the socket that accept returned.
#[inline(always)]
pub fn of_fd(fd: i32) -> Socket {
    // SAFETY: the helper has no arguments and always returns the current task.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    let files: *const u8 = typed(task, &TASK_FILES);
    let table: *const u8 = typed(files, &FILES_FDT);
    // A negative descriptor is beyond every table.
    if fd as u32 >= typed::<u32>(table, &FDT_MAX_FDS) {
        return Socket::NONE;
    }
    let array: u64 = typed(table, &FDT_FD);
    let slot = (array as *const u64).wrapping_add(fd as usize);
    of_file(read::at(slot) as *const u8)
}

/// The socket behind a file, if it is one.
#[inline(always)]
pub fn of_file(file: *const u8) -> Socket {
    if file.is_null() {
        return Socket::NONE;
    }
    let socket = probed_ptr(file, &FILE_PRIVATE_DATA);
    let sk = probed_ptr(socket, &SOCKET_SK);
    // Every file has private_data. It is a socket only if all three point back at each other.
    let is_socket =
        !sk.is_null() && probed_ptr(socket, &SOCKET_FILE) == file && probed_ptr(sk, &SK_SOCKET) == socket;
    if !is_socket {
        return Socket::NONE;
    }
    Socket { sk, inode: inode_of(file) }
}

/// The socket behind a file that the verifier knows as one, if it is one. The verifier then knows the socket, too.
#[inline(always)]
pub fn of_typed_file(file: *const u8) -> Socket {
    // SAFETY: the verifier knows `file` as a struct file.
    let socket = unsafe { bpf_sock_from_file(file as *mut _) } as *const u8;
    if socket.is_null() {
        return Socket::NONE;
    }
    let sk: *const u8 = typed(socket, &SOCKET_SK);
    if sk.is_null() { Socket::NONE } else { Socket { sk, inode: inode_of(file) } }
}

/// The socket that the verifier knows as a struct socket, if it has one of a family yet.
#[inline(always)]
pub fn of_typed_socket(socket: *const u8) -> Socket {
    let sk: *const u8 = typed(socket, &SOCKET_SK);
    if sk.is_null() { Socket::NONE } else { Socket { sk, inode: inode_of_socket(socket) } }
}

/// The inode of a struct socket. What the kernel uses by itself has no file, and none that anybody can see.
#[inline(always)]
pub fn inode_of_socket(socket: *const u8) -> u64 {
    let file = probed_ptr(socket, &SOCKET_FILE);
    if file.is_null() { 0 } else { inode_of(file) }
}

#[inline(always)]
fn inode_of(file: *const u8) -> u64 {
    probed(probed_ptr(file, &FILE_INODE), &INODE_NUMBER)
}

/// The socket's cookie, made if it has none; the verifier knows `sk` as a socket. Never for an MPTCP main socket: the
/// sockets that it accepts would inherit the cookie, and applications would see that.
#[inline(always)]
pub fn make_cookie(sk: *const u8) -> u64 {
    if typed::<u16>(sk, &SK_PROTOCOL) == IPPROTO_MPTCP {
        return 0;
    }
    // SAFETY: the verifier knows `sk` as a struct sock.
    unsafe { bpf_get_socket_cookie(sk as *mut _) }
}

/// A family whose connections acceptd knows to describe.
#[inline(always)]
pub fn is_known(family: u16) -> bool {
    matches!(family, AF_UNIX | AF_INET | AF_INET6 | AF_VSOCK)
}

/// A type of socket that can be accepted on.
#[inline(always)]
pub fn can_listen(socket_type: u16) -> bool {
    matches!(socket_type, SOCK_STREAM | SOCK_SEQPACKET)
}

impl Tuple {
    /// Not known yet.
    pub const NONE: Self = Self { client: [0; 4], server: [0; 4], client_port: 0, server_port: 0, netns: 0 };

    /// Whether both ends are on this host: at addresses of the loopback, or at one address.
    #[inline(always)]
    pub fn is_local(&self) -> bool {
        let [first, second, third, last] = self.server;
        let rest = second | third;
        let is_127 = rest | last == 0 && first.to_ne_bytes()[0] == 127;
        is_127 || first | rest == 0 && last == 1_u32.to_be() || self.client == self.server
    }
}

/// [`Socket::accepted_tuple`] of a `struct sock`. A global function, which the verifier looks at once and not on every path
/// that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe_tuple(sk: u64, out: *mut Tuple) -> i32 {
    // SAFETY: the verifier gives a pointer to a tuple, or null.
    let Some(out) = (unsafe { out.as_mut() }) else { return 0 };
    let socket = Socket { sk: sk as *const u8, inode: 0 };
    let family = socket.family();
    out.client = unmapped(family, socket.peer_address());
    out.server = unmapped(family, socket.local_address());
    out.client_port = socket.peer_port();
    out.server_port = socket.local_port();
    out.netns = socket.netns();
    0
}

impl Socket {
    /// No socket. What a struct on the stack holds is no `Option`: LLVM would leave the rest of a `None` uninitialised, and
    /// copy it, which the verifier refuses.
    pub const NONE: Self = Self { sk: core::ptr::null(), inode: 0 };

    #[inline(always)]
    pub fn exists(self) -> bool {
        !self.sk.is_null()
    }

    /// This, or if it is none, the other.
    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        if self.exists() { self } else { other }
    }

    #[inline(always)]
    pub fn family(self) -> u16 {
        probed(self.sk, &SK_FAMILY)
    }

    #[inline(always)]
    pub fn protocol(self) -> u16 {
        probed(self.sk, &SK_PROTOCOL)
    }

    #[inline(always)]
    pub fn socket_type(self) -> u16 {
        probed(self.sk, &SK_TYPE)
    }

    #[inline(always)]
    pub fn listens(self) -> bool {
        probed::<u8>(self.sk, &SK_STATE) == LISTEN
    }

    /// The socket whose cookie and queue count: itself, or the first subflow of an MPTCP socket. The main socket
    /// of an accepted MPTCP connection inherits its listener's cookie, and would not be unique.
    #[inline(always)]
    pub fn identity(self) -> *const u8 {
        if self.protocol() == IPPROTO_MPTCP && MPTCP_FIRST.load() != ABSENT {
            probed_ptr(self.sk, &MPTCP_FIRST)
        } else {
            self.sk
        }
    }

    /// Whether this listener, or its group, ever had to answer with SYN cookies: then any of its connections may be one of those
    /// (`tcp_synq_overflow`, include/net/tcp.h). When that was is known in jiffies only. A function of its own: its caller has no
    /// stack left for what it reads.
    #[inline(never)]
    pub fn sent_cookies(self) -> bool {
        let tcp = self.identity();
        let group = probed_ptr(tcp, &SK_REUSEPORT);
        let stamp: u32 = if group.is_null() {
            probed(tcp, &TCP_OVERFLOW_STAMP)
        } else {
            probed(group, &REUSEPORT_OVERFLOW_STAMP)
        };
        stamp != 0
    }

    /// Whether it is Multipath TCP's main socket.
    #[inline(always)]
    pub fn is_mptcp(self) -> bool {
        self.protocol() == IPPROTO_MPTCP
    }

    /// Whether it is a TCP socket that belongs to a Multipath TCP connection.
    #[inline(always)]
    pub fn is_subflow(self) -> bool {
        TCP_IS_MPTCP.load() != ABSENT
            && self.protocol() == IPPROTO_TCP
            && matches!(self.family(), AF_INET | AF_INET6)
            && probed::<u8>(self.sk, &TCP_IS_MPTCP) & TCP_IS_MPTCP_MASK.load() as u8 != 0
    }

    /// The cookie that the socket already has, or 0. Read, never asked for: the helper would give one to sockets
    /// whose owner then sees it.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        probed(self.identity(), &SK_COOKIE)
    }

    #[inline(always)]
    pub fn local_address(self) -> Address {
        match self.family() {
            AF_UNIX => [0; 4],
            AF_VSOCK => self.vsock(&VSOCK_LOCAL_CID, &VSOCK_LOCAL_PORT),
            family => address(self.sk, family, &SK_RCV_SADDR, &SK_V6_RCV_SADDR),
        }
    }

    #[inline(always)]
    pub fn peer_address(self) -> Address {
        match self.family() {
            AF_UNIX => [0; 4],
            AF_VSOCK => self.vsock(&VSOCK_REMOTE_CID, &VSOCK_REMOTE_PORT),
            family => address(self.sk, family, &SK_DADDR, &SK_V6_DADDR),
        }
    }

    #[inline(always)]
    fn vsock(self, cid: &aya_ebpf::Global<u64>, port: &aya_ebpf::Global<u64>) -> Address {
        if cid.load() == ABSENT {
            // VMADDR_CID_ANY and VMADDR_PORT_ANY: not known.
            return [u32::MAX, u32::MAX, 0, 0];
        }
        [probed(self.sk, cid), probed(self.sk, port), 0, 0]
    }

    /// `inet_sport`, network order. Not `skc_num`: that is 0 once the peer reset the connection.
    #[inline(always)]
    pub fn local_port(self) -> u16 {
        match self.family() {
            AF_INET | AF_INET6 => probed(self.sk, &INET_SPORT),
            _ => 0,
        }
    }

    #[inline(always)]
    pub fn peer_port(self) -> u16 {
        match self.family() {
            AF_INET | AF_INET6 => probed(self.sk, &SK_DPORT),
            _ => 0,
        }
    }

    #[inline(always)]
    pub fn netns(self) -> u32 {
        probed(probed_ptr(self.sk, &SK_NET), &NET_INUM)
    }

    /// Connections in the accept queue, and its limit. UNIX sockets queue what they accept like data.
    #[inline(always)]
    fn backlog(self) -> (u32, u32) {
        let identity = self.identity();
        let length = if self.family() == AF_UNIX { &SK_RECEIVE_LENGTH } else { &SK_ACK_BACKLOG };
        (probed(identity, length), probed(identity, &SK_MAX_ACK_BACKLOG))
    }

    /// The connection that this accepted socket is the server's end of.
    #[inline(always)]
    pub fn accepted_tuple(self) -> Tuple {
        // The verifier wants memory that was written to, and LLVM may not find out that it need not be.
        let mut tuple = core::hint::black_box(Tuple::NONE);
        // What the verifier knows as a socket is no number to it: read as memory, it is.
        describe_tuple(read::at((&raw const self.sk).cast::<u64>()), &mut tuple);
        tuple
    }

    /// The connection that this connected socket is the client's end of.
    #[inline(always)]
    pub fn connected_tuple(self) -> Tuple {
        let accepted = self.accepted_tuple();
        Tuple {
            client: accepted.server,
            server: accepted.client,
            client_port: accepted.server_port,
            server_port: accepted.client_port,
            netns: accepted.netns,
        }
    }

    /// Whether an accept on `listener` can have brought this socket.
    #[inline(always)]
    pub fn may_be_of(self, listener: Self) -> bool {
        self.family() == listener.family()
            && self.protocol() == listener.protocol()
            && self.local_port() == listener.local_port()
            && self.netns() == listener.netns()
    }

    /// Describes the socket as a listener.
    #[inline(always)]
    pub fn describe_listener(self, out: &mut Listener) {
        out.cookie = self.cookie();
        out.inode = self.inode;
        out.addr = bytes(self.local_address());
        out.netns = self.netns();
        (out.backlog_length, out.backlog_limit) = self.backlog();
        out.drops = probed(self.identity(), &SK_DROPS);
        out.port = self.local_port();
        out.family = self.family();
        out.protocol = self.protocol();
        out.socket_type = self.socket_type();
    }

    /// Describes the socket as a connection.
    #[inline(always)]
    pub fn describe_connection(self, out: &mut Connection) {
        out.cookie = self.cookie();
        out.inode = self.inode;
        out.local_addr = bytes(self.local_address());
        out.peer_addr = bytes(self.peer_address());
        out.netns = self.netns();
        out.local_port = self.local_port();
        out.peer_port = self.peer_port();
        out.family = self.family();
        out.protocol = self.protocol();
    }

    /// The name of a UNIX socket; `out` is zero.
    #[inline(always)]
    pub fn unix_name(self, out: &mut UnixName) {
        unix_name(self.sk, out);
    }

    /// The name of the UNIX socket at the other end; `out` is zero.
    #[inline(always)]
    pub fn unix_peer_name(self, out: &mut UnixName) {
        let peer = probed_ptr(self.sk, &UNIX_PEER);
        if !peer.is_null() {
            unix_name(peer, out);
        }
    }
}

/// The name has a length, and may begin with NUL and hold others (`unix_mkname_bsd`, net/unix/af_unix.c).
#[inline(always)]
fn unix_name(sk: *const u8, out: &mut UnixName) {
    let address = probed_ptr(sk, &UNIX_ADDR);
    if address.is_null() {
        return;
    }
    // The length counts the family, too.
    let length = probed::<u32>(address, &UNIX_ADDRESS_LEN).saturating_sub(2);
    let path = address.wrapping_add(UNIX_ADDRESS_PATH.load() as usize);
    copy_name(length, out, |to| {
        // SAFETY: the helper takes any address, and fails on one that cannot be read.
        unsafe { bpf_probe_read_kernel_buf(path, to) }.is_ok()
    });
}

/// Fills a name of `length` bytes with what `read` reads.
#[inline(always)]
pub fn copy_name(length: u32, out: &mut UnixName, read: impl FnOnce(&mut [u8]) -> bool) {
    if length == 0 || length > UNIX_NAME_LEN as u32 {
        return;
    }
    if read(&mut out.bytes[..length as usize]) {
        out.length = length;
    }
}

/// The address as it is in memory: of the internet families network order.
#[inline(always)]
pub fn bytes(address: Address) -> [u8; 16] {
    let mut out = [0; 16];
    let [a, b, c, d] = address.map(u32::to_ne_bytes);
    out[..4].copy_from_slice(&a);
    out[4..8].copy_from_slice(&b);
    out[8..12].copy_from_slice(&c);
    out[12..].copy_from_slice(&d);
    out
}

#[inline(always)]
fn address(sk: *const u8, family: u16, v4: &aya_ebpf::Global<u64>, v6: &aya_ebpf::Global<u64>) -> Address {
    if family == AF_INET6 { probed(sk, v6) } else { [probed(sk, v4), 0, 0, 0] }
}

/// An IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) as the IPv4 address that it stands for.
#[inline(always)]
fn unmapped(family: u16, address: Address) -> Address {
    let [first, second, third, last] = address;
    let is_mapped = family == AF_INET6 && first == 0 && second == 0 && third == 0xffff_u32.to_be();
    if is_mapped { [last, 0, 0, 0] } else { address }
}
