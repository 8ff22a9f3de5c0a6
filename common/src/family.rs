//! Address families (include/linux/socket.h), as in `Connection::family` and `Listener::family`.

/// UNIX sockets.
pub const AF_UNIX: u16 = 1;
/// IPv4.
pub const AF_INET: u16 = 2;
/// IPv6.
pub const AF_INET6: u16 = 10;
/// Sockets between virtual machines and their host.
pub const AF_VSOCK: u16 = 40;
