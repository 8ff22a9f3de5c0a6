//! What no safe wrapper offers: an accept with a bad address, signals that interrupt, addresses of VSOCK.
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
    net::{AddressFamily, SocketAddrAny},
    process::Signal,
    thread::{UnshareFlags, unshare_unsafe},
};

unsafe extern "C" {
    fn accept(listener: c_int, address: *mut c_void, length: *mut u32) -> c_int;
    fn signal(number: c_int, handler: Option<extern "C" fn(c_int)>) -> *mut c_void;
    fn siginterrupt(number: c_int, interrupts: c_int) -> c_int;
    fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
    fn pthread_kill(thread: RawPthread, number: c_int) -> c_int;
}

/// accept(2) with an address that is no memory of this process.
///
/// # Errors
/// The system call's.
pub fn accept_with_a_bad_address(listener: &impl AsRawFd) -> io::Result<OwnedFd> {
    let mut length = 128;
    // SAFETY: the kernel refuses to write to an address that is not mapped; nothing of ours is there.
    let result =
        unsafe { accept(listener.as_raw_fd(), std::ptr::without_provenance_mut(1), &raw mut length) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// From now on `number` does to this process, and to those that it starts, what it does by default: whoever started it may have had
/// it ignored (nohup(1)).
pub fn set_default(number: Signal) {
    // SAFETY: there is no handler, and so nothing that is forbidden in one.
    unsafe { signal(number.as_raw(), None) };
}

extern "C" fn nothing(_: c_int) {}

/// From now on `number` does nothing in this process but to interrupt a call that blocks; `restarts` says whether the call
/// then goes on (`SA_RESTART`).
///
/// # Panics
/// When there is no such signal.
pub fn set_interrupting(number: Signal, restarts: bool) {
    // SAFETY: the handler does nothing, and so nothing that is forbidden in one.
    let done = unsafe {
        signal(number.as_raw(), Some(nothing));
        siginterrupt(number.as_raw(), c_int::from(!restarts))
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Sends a signal to one thread.
///
/// # Panics
/// When it is gone.
pub fn interrupt<T>(thread: &JoinHandle<T>, number: Signal) {
    // SAFETY: a thread that was not joined has its id.
    assert_eq!(unsafe { pthread_kill(thread.as_pthread_t(), number.as_raw()) }, 0);
}

/// The calling thread leaves its network namespace for a new one.
///
/// # Panics
/// When it may not.
pub fn leave_the_network() {
    // SAFETY: no descriptor and no memory is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root may");
}

/// The calling thread leaves the host's name behind for one that can be set.
///
/// # Panics
/// When it may not.
pub fn leave_the_host_name() {
    // SAFETY: no descriptor and no memory is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUTS) }.expect("root may");
}

/// `struct ifreq`, `include/uapi/linux/if.h`: a name and what the request is about.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes the network interface `name` of an open `/dev/net/tun`: each packet is one read or write.
///
/// # Errors
/// The system call's.
///
/// # Panics
/// With a name that is too long.
pub fn make_tun(device: &impl AsRawFd, name: &str) -> io::Result<()> {
    // include/uapi/linux/if_tun.h
    const TUNSETIFF: c_ulong = 0x4004_54CA;
    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads and writes one `struct ifreq`.
    match unsafe { ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct sockaddr_vm`, `include/uapi/linux/vm_sockets.h`
#[repr(C)]
#[derive(Clone, Copy)]
struct Vsock {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    rest: u32,
}

/// An address of VSOCK.
///
/// # Panics
/// Never.
#[must_use]
pub fn vsock(cid: u32, port: u32) -> SocketAddrAny {
    let address = Vsock { family: AddressFamily::VSOCK.as_raw(), reserved: 0, port, cid, rest: 0 };
    let length = u32::try_from(size_of::<Vsock>()).expect("short");
    // SAFETY: so many bytes are there, and they begin with the family.
    unsafe { SocketAddrAny::read((&raw const address).cast(), length) }
}

/// Context id and port of an address of VSOCK.
///
/// # Panics
/// When it is of another family.
#[must_use]
pub fn of_vsock(address: &SocketAddrAny) -> (u32, u32) {
    assert_eq!(address.address_family(), AddressFamily::VSOCK);
    assert!(address.addr_len() as usize >= size_of::<Vsock>());
    // SAFETY: it is an address of this family, and as long as one.
    let address = unsafe { address.as_ptr().cast::<Vsock>().read_unaligned() };
    (address.cid, address.port)
}
