//! System calls that std and rustix do not wrap: accept with a bad address, interrupting signals, namespaces,
//! TUN interfaces, VSOCK addresses, SCTP, SMC, `AF_ALG`, `TCP_DEFER_ACCEPT`, `IP_MINTTL`, filters of packets
//! and system calls.
#![allow(unsafe_code, reason = "the C library's functions have no safe wrapper")]

use std::{
    ffi::{c_int, c_ulong, c_void},
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd},
        unix::thread::{JoinHandleExt as _, RawPthread},
    },
    thread::JoinHandle,
};

use rustix::{
    net::{AddressFamily, SocketAddrAny, SocketType, ipproto, socket},
    process::Signal,
    thread::{UnshareFlags, unshare_unsafe},
};

unsafe extern "C" {
    fn accept(listener: c_int, address: *mut c_void, length: *mut u32) -> c_int;
    fn signal(number: c_int, handler: Option<extern "C" fn(c_int)>) -> *mut c_void;
    fn siginterrupt(number: c_int, interrupts: c_int) -> c_int;
    fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
    fn pthread_kill(thread: RawPthread, number: c_int) -> c_int;
    fn setsockopt(descriptor: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> c_int;
    fn prctl(operation: c_int, ...) -> c_int;
    fn fork() -> c_int;
}

/// accept(2) with an address argument that points to unmapped memory.
///
/// # Errors
/// That of the system call.
pub fn accept_with_a_bad_address(listener: &impl AsRawFd) -> io::Result<OwnedFd> {
    let mut length = 128;
    // SAFETY: the kernel refuses to write to the unmapped address (EFAULT), so no memory changes.
    let result =
        unsafe { accept(listener.as_raw_fd(), std::ptr::without_provenance_mut(1), &raw mut length) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call just returned this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Restores the default action of a signal for this process and its future children. The parent may have
/// started this process with the signal ignored (nohup(1)).
pub fn reset_signal_handler(number: Signal) {
    // SAFETY: no handler is installed.
    unsafe { signal(number.as_raw(), None) };
}

extern "C" fn no_op(_: c_int) {}

/// Installs a handler that does nothing, so that the signal only interrupts blocking system calls. `restarts`
/// sets `SA_RESTART`: whether the interrupted call then continues.
///
/// # Panics
/// If there is no such signal.
pub fn install_interrupting_handler(number: Signal, restarts: bool) {
    // SAFETY: the handler is async-signal-safe, since it does nothing.
    let done = unsafe {
        signal(number.as_raw(), Some(no_op));
        siginterrupt(number.as_raw(), c_int::from(!restarts))
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Sends a signal to one thread.
///
/// # Panics
/// If the thread has exited.
pub fn interrupt<T>(thread: &JoinHandle<T>, number: Signal) {
    // SAFETY: the id of a thread that was not joined is valid.
    assert_eq!(unsafe { pthread_kill(thread.as_pthread_t(), number.as_raw()) }, 0);
}

/// Moves the calling thread into a new network namespace.
///
/// # Panics
/// Without root privileges.
pub fn unshare_network_namespace() {
    // SAFETY: neither descriptors nor memory are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root privileges");
}

/// Moves the calling thread into a new UTS namespace, in which the host name can be set.
///
/// # Panics
/// Without root privileges.
pub fn unshare_uts_namespace() {
    // SAFETY: neither descriptors nor memory are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUTS) }.expect("root privileges");
}

/// `struct ifreq`, `include/uapi/linux/if.h`.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Turns an open `/dev/net/tun` into the network interface `name`, of which each read or write is one IP
/// packet.
///
/// # Errors
/// That of the system call.
///
/// # Panics
/// If the name is longer than 15 bytes.
pub fn make_tun(device: &impl AsRawFd, name: &str) -> io::Result<()> {
    // include/uapi/linux/if_tun.h
    const TUNSETIFF: c_ulong = 0x4004_54CA;
    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads and writes exactly one `struct ifreq`.
    match unsafe { ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct sockaddr_vm`, `include/uapi/linux/vm_sockets.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Vsock {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    rest: u32,
}

/// A VSOCK address.
///
/// # Panics
/// Never.
#[must_use]
pub fn vsock_address(cid: u32, port: u32) -> SocketAddrAny {
    let address = Vsock { family: AddressFamily::VSOCK.as_raw(), reserved: 0, port, cid, rest: 0 };
    let length = u32::try_from(size_of::<Vsock>()).expect("short");
    // SAFETY: the structure has this length and begins with the family.
    unsafe { SocketAddrAny::read((&raw const address).cast(), length) }
}

/// Context id and port of a VSOCK address.
///
/// # Panics
/// If the address has another family.
#[must_use]
pub fn vsock_parts(address: &SocketAddrAny) -> (u32, u32) {
    assert_eq!(address.address_family(), AddressFamily::VSOCK);
    assert!(address.addr_len() as usize >= size_of::<Vsock>());
    // SAFETY: family and length were just checked.
    let address = unsafe { address.as_ptr().cast::<Vsock>().read_unaligned() };
    (address.cid, address.port)
}

/// A one-to-one style SCTP socket, which is used like a TCP socket.
///
/// # Errors
/// If the kernel has no SCTP.
pub fn sctp_socket() -> rustix::io::Result<OwnedFd> {
    socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP))
}

/// An SMC socket, which falls back to TCP with clients that have no SMC.
///
/// # Errors
/// If the kernel has no SMC.
pub fn smc_socket() -> rustix::io::Result<OwnedFd> {
    /// include/linux/socket.h
    const AF_SMC: u16 = 43;
    socket(AddressFamily::from_raw(AF_SMC), SocketType::STREAM, None)
}

/// A socket of the kernel's cryptography, on which accept makes another one without any connection.
///
/// # Errors
/// If the kernel has no `AF_ALG`.
pub fn alg_socket() -> rustix::io::Result<OwnedFd> {
    /// include/linux/socket.h
    const AF_ALG: u16 = 38;
    socket(AddressFamily::from_raw(AF_ALG), SocketType::SEQPACKET, None)
}

/// Sets `TCP_DEFER_ACCEPT` of a listener: connections are established only when the client sends data, or
/// after about this many seconds. 0 switches it off.
///
/// # Panics
/// If the socket is none of TCP.
pub fn defer_accepts(listener: &impl AsRawFd, seconds: c_int) {
    // include/uapi/linux/in.h, include/uapi/linux/tcp.h
    const IPPROTO_TCP: c_int = 6;
    const TCP_DEFER_ACCEPT: c_int = 9;
    set_option(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds);
}

/// Sets `IP_MINTTL` of a socket: packets with a smaller TTL are dropped. 0 switches it off.
///
/// # Panics
/// If the socket is none of IPv4.
pub fn drop_below_ttl(socket: &impl AsRawFd, ttl: c_int) {
    // include/uapi/linux/in.h
    const IPPROTO_IP: c_int = 0;
    const IP_MINTTL: c_int = 21;
    set_option(socket, IPPROTO_IP, IP_MINTTL, &ttl);
}

/// Attaches a filter to a socket that drops every packet (`SO_ATTACH_FILTER`), or detaches it.
///
/// # Panics
/// If the kernel refuses.
pub fn drop_all_packets(socket: &impl AsRawFd, are_dropped: bool) {
    // include/uapi/asm-generic/socket.h
    const SOL_SOCKET: c_int = 1;
    const SO_ATTACH_FILTER: c_int = 26;
    const SO_DETACH_FILTER: c_int = 27;
    // include/uapi/linux/bpf_common.h
    static KEEP_NOTHING: FilterStep = FilterStep { code: 0x06, if_true: 0, if_false: 0, value: 0 };
    if are_dropped {
        let filter = FilterProgram { length: 1, steps: &raw const KEEP_NOTHING };
        set_option(socket, SOL_SOCKET, SO_ATTACH_FILTER, &filter);
    } else {
        set_option(socket, SOL_SOCKET, SO_DETACH_FILTER, &0);
    }
}

/// setsockopt(2) with a value of the option's type.
fn set_option<T>(socket: &impl AsRawFd, level: c_int, option: c_int, value: &T) {
    let length = u32::try_from(size_of::<T>()).expect("a small type");
    // SAFETY: the value has this length, and what it refers to lives until the call returns.
    let done =
        unsafe { setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// `struct sock_filter`, include/uapi/linux/filter.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct FilterStep {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// `struct sock_fprog`, include/uapi/linux/filter.h.
#[repr(C)]
struct FilterProgram {
    length: u16,
    steps: *const FilterStep,
}

/// Makes these system calls of the calling thread fail with `EPERM`, by a seccomp filter that allows all
/// others. The filter stays for the life of the thread.
///
/// # Panics
/// If the kernel has no seccomp.
pub fn refuse_system_calls(numbers: &[u32]) {
    // include/uapi/linux/prctl.h, include/uapi/linux/seccomp.h
    const PR_SET_NO_NEW_PRIVS: c_int = 38;
    const PR_SET_SECCOMP: c_int = 22;
    const SECCOMP_MODE_FILTER: c_ulong = 2;
    // include/uapi/linux/bpf_common.h, include/uapi/linux/filter.h, include/uapi/asm-generic/errno-base.h
    const LOAD_NUMBER: FilterStep = FilterStep { code: 0x20, if_true: 0, if_false: 0, value: 0 };
    const REFUSE: FilterStep = FilterStep { code: 0x06, if_true: 0, if_false: 0, value: 0x0005_0001 };
    const ALLOW: FilterStep = FilterStep { code: 0x06, if_true: 0, if_false: 0, value: 0x7fff_0000 };
    let mut steps = vec![LOAD_NUMBER];
    for number in numbers {
        steps.extend([FilterStep { code: 0x15, if_true: 0, if_false: 1, value: *number }, REFUSE]);
    }
    steps.push(ALLOW);
    let length = u16::try_from(steps.len()).expect("few numbers");
    let program = FilterProgram { length, steps: steps.as_ptr() };
    let zero: c_ulong = 0;
    // SAFETY: the program has this length, and both live until the call returns.
    let done = unsafe {
        prctl(PR_SET_NO_NEW_PRIVS, 1 as c_ulong, zero, zero, zero)
            | prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program, zero, zero)
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// fork(2). Returns whether this is the child. Only for a process with one thread.
///
/// # Panics
/// If the process has several threads, or the kernel refuses.
#[must_use]
pub fn fork_child() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    assert!(matches!(threads, Ok(1)), "a process with several threads must not fork: {threads:?}");
    // SAFETY: no other thread holds a lock that the child would need.
    let child = unsafe { fork() };
    assert!(child >= 0, "fork: {}", io::Error::last_os_error());
    child == 0
}
