//! Finds the socket behind a file or a descriptor.

use aya_ebpf::helpers::generated::bpf_sock_from_file;

use crate::{
    offsets::*,
    read::{AnyStruct, File, Probed, Socket, Typed, load_at},
    sock::{FileSock, ProbedSock, TypedSock},
    task,
};

impl FileSock {
    /// The socket behind a file descriptor of the current process; [`FileSock::NONE`] if it is not a socket.
    /// A sibling thread may have closed or replaced the descriptor since the call: only the pending cookie
    /// proves that this is the socket that accept returned.
    #[inline(always)]
    pub fn from_fd(fd: i32) -> Self {
        // The verifier wants memory that was written to. The black box keeps LLVM from leaving it
        // uninitialised.
        let mut socket = core::hint::black_box(Self::NONE);
        find_socket(fd, &raw mut socket);
        socket
    }

    /// The socket behind a file; [`FileSock::NONE`] if it is not a socket, or if `file` is null.
    #[inline(always)]
    pub fn from_file(file: Probed<File>) -> Self {
        if file.is_null() {
            return Self::NONE;
        }
        let socket: Probed<Socket> = file.follow(&FILE_PRIVATE_DATA);
        let sk: ProbedSock = socket.follow(&SOCKET_SK);
        // Every file has private_data. It is a socket only if all three point back at each other.
        let is_socket =
            !sk.is_null() && socket.follow(&SOCKET_FILE) == file && sk.follow(&SK_SOCKET) == socket;
        if !is_socket {
            return Self::NONE;
        }
        Self { sk: sk.without_smc(), inode: file.inode() }
    }
}

/// Sets `out` to the socket behind a file descriptor of the current process, if it is one. A global function,
/// so that the verifier checks it once and not on every path that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_socket(fd: i32, out: *mut FileSock) -> i32 {
    // SAFETY: for the verifier, the argument of a global function is a pointer to a socket, or null.
    let Some(out) = (unsafe { out.as_mut() }) else { return 0 };
    let files: Typed<AnyStruct> = task::current().follow(&TASK_FILES);
    let table: Typed<AnyStruct> = files.follow(&FILES_FDT);
    // As an unsigned number, a negative descriptor is beyond every table.
    if fd as u32 >= table.load::<u32>(&FDT_MAX_FDS) {
        return 0;
    }
    let array: u64 = table.load(&FDT_FD);
    let slot = (array as *const u64).wrapping_add(fd as usize);
    *out = FileSock::from_file(Probed::new(load_at(slot) as *const u8));
    0
}

impl TypedSock {
    /// The socket behind a file; null if it is not a socket.
    #[inline(always)]
    pub fn from_file(file: Typed<File>) -> Self {
        // SAFETY: `file` is typed, and the helper returns a `struct socket *` or null.
        let socket: Typed<Socket> = unsafe { Typed::new(bpf_sock_from_file(file.as_ptr()) as *const u8) };
        if socket.is_null() { Self::NULL } else { Self::from_socket(socket) }
    }
}

impl Probed<File> {
    #[inline(always)]
    pub fn inode(self) -> u64 {
        self.follow::<AnyStruct>(&FILE_INODE).load(&INODE_NUMBER)
    }
}

impl Probed<Socket> {
    /// The inode of the socket's file; 0 without one. A socket that the kernel uses by itself has no file.
    #[inline(always)]
    pub fn inode(self) -> u64 {
        let file: Probed<File> = self.follow(&SOCKET_FILE);
        if file.is_null() { 0 } else { file.inode() }
    }
}
