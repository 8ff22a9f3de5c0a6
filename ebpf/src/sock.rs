//! Reading sockets: from a descriptor to its socket, and what a socket says about itself.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_get_current_task_btf};

use crate::{
    offsets::*,
    read::{probed, probed_ptr, typed},
};

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
/// `IPPROTO_MPTCP`, include/uapi/linux/in.h
pub const IPPROTO_MPTCP: u16 = 262;

const ABSENT: u64 = u64::MAX;
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

/// A `struct sock` of which the verifier does not know the type, and the inode of its file.
#[derive(Clone, Copy)]
pub struct Socket {
    pub sk: *const u8,
    pub inode: u64,
}

/// The socket behind a descriptor of the current process, if it is one. A sibling thread may have closed or
/// replaced the descriptor since: only the pending cookie proves that this is the socket that accept returned.
#[inline(always)]
pub fn of_fd(fd: i32) -> Option<Socket> {
    // SAFETY: the helper has no arguments and always returns the current task.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    let files: *const u8 = typed(task, &TASK_FILES);
    let table: *const u8 = typed(files, &FILES_FDT);
    // A negative descriptor is beyond every table.
    if fd as u32 >= typed::<u32>(table, &FDT_MAX_FDS) {
        return None;
    }
    let array: u64 = typed(table, &FDT_FD);
    let slot = (array as *const u64).wrapping_add(fd as usize);
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    let file = unsafe { bpf_probe_read_kernel(slot) }.unwrap_or(0) as *const u8;
    if file.is_null() {
        return None;
    }
    let socket = probed_ptr(file, &FILE_PRIVATE_DATA);
    let sk = probed_ptr(socket, &SOCKET_SK);
    // Every file has private_data. It is a socket only if all three point back at each other.
    let is_socket =
        !sk.is_null() && probed_ptr(socket, &SOCKET_FILE) == file && probed_ptr(sk, &SK_SOCKET) == socket;
    if !is_socket {
        return None;
    }
    let inode = probed_ptr(file, &FILE_INODE);
    Some(Socket { sk, inode: probed(inode, &INODE_NUMBER) })
}

impl Socket {
    #[inline(always)]
    pub fn family(self) -> u16 {
        probed(self.sk, &SK_FAMILY)
    }

    #[inline(always)]
    pub fn is_inet(self) -> bool {
        matches!(self.family(), AF_INET | AF_INET6)
    }

    #[inline(always)]
    pub fn protocol(self) -> u16 {
        probed(self.sk, &SK_PROTOCOL)
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

    /// The cookie that the socket already has, or 0. Read, never asked for: the helper would give one to sockets
    /// whose owner then sees it.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        probed(self.identity(), &SK_COOKIE)
    }

    #[inline(always)]
    pub fn local_address(self) -> Address {
        address(self.sk, self.family(), &SK_RCV_SADDR, &SK_V6_RCV_SADDR)
    }

    #[inline(always)]
    pub fn peer_address(self) -> Address {
        address(self.sk, self.family(), &SK_DADDR, &SK_V6_DADDR)
    }

    /// `inet_sport`, network order. Not `skc_num`: that is 0 once the peer reset the connection.
    #[inline(always)]
    pub fn local_port(self) -> u16 {
        probed(self.sk, &INET_SPORT)
    }

    #[inline(always)]
    pub fn peer_port(self) -> u16 {
        probed(self.sk, &SK_DPORT)
    }

    #[inline(always)]
    pub fn netns(self) -> u32 {
        probed(probed_ptr(self.sk, &SK_NET), &NET_INUM)
    }

    /// Connections in the accept queue, and its limit.
    #[inline(always)]
    pub fn backlog(self) -> (u32, u32) {
        let identity = self.identity();
        (probed(identity, &SK_ACK_BACKLOG), probed(identity, &SK_MAX_ACK_BACKLOG))
    }

    /// The connection that this accepted socket is the server's end of.
    #[inline(always)]
    pub fn accepted_tuple(self) -> Tuple {
        let family = self.family();
        Tuple {
            client: unmapped(family, self.peer_address()),
            server: unmapped(family, self.local_address()),
            client_port: self.peer_port(),
            server_port: self.local_port(),
            netns: self.netns(),
        }
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
