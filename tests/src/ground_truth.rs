//! The kernel's own statements to the accepting process about one accept: the reference for records.

use std::{
    fmt,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use rustix::{
    fs::fstat,
    net::{getpeername, getsockname, sockopt::socket_cookie},
    process::getpid,
    thread::gettid,
};

/// One accept, from system calls of the process that made it. `Display` and [`GroundTruth::parse`] carry it
/// from a child process to the test, as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroundTruth {
    /// getpid(2) of the accepting process.
    pub pid: i32,
    /// gettid(2) of the accepting thread.
    pub tid: i32,
    /// The new descriptor.
    pub fd: i32,
    /// The listening descriptor.
    pub listener_fd: i32,
    /// getsockname(2) of the new socket.
    pub local: SocketAddr,
    /// getpeername(2) of the new socket; `None` if the peer has reset the connection.
    pub peer: Option<SocketAddr>,
    /// `SO_COOKIE` of the new socket.
    pub cookie: u64,
    /// `SO_COOKIE` of the listening socket.
    pub listener_cookie: u64,
    /// Inode of the new socket (fstat(2)).
    pub inode: u64,
    /// Inode of the listening socket (fstat(2)).
    pub listener_inode: u64,
}

impl GroundTruth {
    /// Queries the kernel. Call it on the accepting thread, since `tid` is that of the caller.
    ///
    /// # Panics
    /// If a system call on one of the sockets fails (other than getpeername).
    #[must_use]
    pub fn from_sockets(accepted: &(impl AsFd + AsRawFd), listener: &(impl AsFd + AsRawFd)) -> Self {
        let inet = |address: rustix::net::SocketAddrAny| SocketAddr::try_from(address).ok();
        Self {
            pid: getpid().as_raw_nonzero().get(),
            tid: gettid().as_raw_nonzero().get(),
            fd: accepted.as_raw_fd(),
            listener_fd: listener.as_raw_fd(),
            local: getsockname(accepted).ok().and_then(inet).expect("a local address"),
            peer: getpeername(accepted).ok().flatten().and_then(inet),
            cookie: socket_cookie(accepted).expect("SO_COOKIE"),
            listener_cookie: socket_cookie(listener).expect("SO_COOKIE"),
            inode: fstat(accepted).expect("fstat").st_ino,
            listener_inode: fstat(listener).expect("fstat").st_ino,
        }
    }

    /// Parses a line that [`GroundTruth`]'s `Display` wrote in a child process.
    ///
    /// # Panics
    /// If the line has another form.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [pid, tid, fd, listener_fd, local, peer, cookie, listener_cookie, inode, listener_inode] =
            fields[..]
        else {
            panic!("not a GroundTruth: {line:?}")
        };
        let number = |field: &str| field.parse().expect("a number");
        let id = |field: &str| field.parse().expect("an id");
        Self {
            pid: number(pid),
            tid: number(tid),
            fd: number(fd),
            listener_fd: number(listener_fd),
            local: local.parse().expect("an address"),
            peer: peer.parse().ok(),
            cookie: id(cookie),
            listener_cookie: id(listener_cookie),
            inode: id(inode),
            listener_inode: id(listener_inode),
        }
    }
}

impl fmt::Display for GroundTruth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
        write!(
            out,
            "{} {} {} {} {} {peer} {} {} {} {}",
            self.pid,
            self.tid,
            self.fd,
            self.listener_fd,
            self.local,
            self.cookie,
            self.listener_cookie,
            self.inode,
            self.listener_inode,
        )
    }
}
