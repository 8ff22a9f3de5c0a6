//! What the kernel tells a process about a socket that it accepted.

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

/// One accept, seen from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// getpid(2)
    pub pid: i32,
    /// gettid(2)
    pub tid: i32,
    /// The new descriptor.
    pub fd: i32,
    /// The listening descriptor.
    pub listener_fd: i32,
    /// getsockname(2) of the new socket.
    pub local: SocketAddr,
    /// getpeername(2); absent when the peer reset the connection.
    pub peer: Option<SocketAddr>,
    /// `SO_COOKIE` of the new socket.
    pub cookie: u64,
    /// `SO_COOKIE` of the listening socket.
    pub listener_cookie: u64,
    /// Inode of the new socket.
    pub inode: u64,
    /// Inode of the listening socket.
    pub listener_inode: u64,
}

impl Truth {
    /// Asks the kernel.
    ///
    /// # Panics
    /// When a socket does not answer.
    #[must_use]
    pub fn of(accepted: &(impl AsFd + AsRawFd), listener: &(impl AsFd + AsRawFd)) -> Self {
        let inet = |address: rustix::net::SocketAddrAny| SocketAddr::try_from(address).ok();
        Self {
            pid: getpid().as_raw_nonzero().get(),
            tid: gettid().as_raw_nonzero().get(),
            fd: accepted.as_raw_fd(),
            listener_fd: listener.as_raw_fd(),
            local: getsockname(accepted).ok().and_then(inet).expect("an accepted socket has a name"),
            peer: getpeername(accepted).ok().flatten().and_then(inet),
            cookie: socket_cookie(accepted).expect("SO_COOKIE"),
            listener_cookie: socket_cookie(listener).expect("SO_COOKIE"),
            inode: fstat(accepted).expect("fstat").st_ino,
            listener_inode: fstat(listener).expect("fstat").st_ino,
        }
    }

    /// Reads what [`Truth`]'s `Display` wrote: how a child tells its parent.
    ///
    /// # Panics
    /// When the line is of another form.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [pid, tid, fd, listener_fd, local, peer, cookie, listener_cookie, inode, listener_inode] =
            fields[..]
        else {
            panic!("not a truth: {line:?}")
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

impl fmt::Display for Truth {
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
