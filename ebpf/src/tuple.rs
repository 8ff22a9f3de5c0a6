//! The addresses and ports of a connection, by which its two ends find each other.

use crate::{
    read::as_scalar,
    sock::{Address, ProbedSock},
    uapi::AF_INET6,
};

/// A connection, named from the side that opened it. IPv4-mapped addresses are kept as IPv4, so that both
/// ends have the same name for it. collector-bridge/src/bpf/peers.rs reads maps with this key.
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

impl Tuple {
    /// Not known yet.
    pub const NONE: Self = Self { client: [0; 4], server: [0; 4], client_port: 0, server_port: 0, netns: 0 };

    /// The connection that the accepted socket `sk` is the server's end of.
    #[inline(always)]
    pub fn from_server(sk: ProbedSock) -> Self {
        // The verifier wants memory that was written to. The black box keeps LLVM from leaving it
        // uninitialised.
        let mut tuple = core::hint::black_box(Self::NONE);
        // A global function takes a socket only as a number.
        describe_tuple(as_scalar(sk.as_ptr() as u64), &raw mut tuple);
        tuple
    }

    /// The connection that the connected socket `sk` is the client's end of.
    #[inline(always)]
    pub fn from_client(sk: ProbedSock) -> Self {
        let reversed = Self::from_server(sk);
        Self {
            client: reversed.server,
            server: reversed.client,
            client_port: reversed.server_port,
            server_port: reversed.client_port,
            netns: reversed.netns,
        }
    }

    /// Whether both ends are on this host: at addresses of the loopback, or at one address.
    #[inline(always)]
    pub fn is_local(&self) -> bool {
        let [first, second, third, last] = self.server;
        let rest = second | third;
        let is_127 = rest | last == 0 && first.to_ne_bytes()[0] == 127;
        is_127 || first | rest == 0 && last == 1_u32.to_be() || self.client == self.server
    }
}

/// Fills `out` for the server's end `sk`, a `struct sock`. A global function, so that the verifier checks it
/// once and not on every path that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe_tuple(sk: u64, out: *mut Tuple) -> i32 {
    // SAFETY: for the verifier, the argument of a global function is a pointer to a tuple, or null.
    let Some(out) = (unsafe { out.as_mut() }) else { return 0 };
    let sk = ProbedSock::new(sk as *const u8);
    let family = sk.family();
    (_, out.client) = unmapped(family, sk.peer_address());
    (_, out.server) = unmapped(family, sk.local_address());
    out.client_port = sk.peer_port();
    out.server_port = sk.local_port();
    out.netns = sk.netns();
    0
}

/// An IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) as the IPv4 address that it stands for, and whether it was
/// one.
#[inline(always)]
pub fn unmapped(family: u16, address: Address) -> (bool, Address) {
    let [first, second, third, last] = address;
    let is_mapped = family == AF_INET6 && first == 0 && second == 0 && third == 0xffff_u32.to_be();
    (is_mapped, if is_mapped { [last, 0, 0, 0] } else { address })
}
