//! Makes system calls through the i386 entry of an `x86_64` kernel, as a 32-bit program does: int 0x80, with
//! the numbers of `arch/x86/entry/syscalls/syscall_32.tbl`.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "system calls of another ABI have no safe wrapper")]

use std::{
    arch::asm,
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

const TIMES: u32 = 43;
const SOCKETCALL: u32 = 102;
const ACCEPT4: u32 = 364;

/// `SYS_ACCEPT` and `SYS_ACCEPT4`, include/uapi/linux/net.h
const SYS_ACCEPT: u32 = 5;
const SYS_ACCEPT4: u32 = 18;

/// include/uapi/asm/mman.h
const MAP_32BIT: u32 = 0x40;

/// times(2) without a buffer. Its i386 number, 43, is accept in the native ABI.
pub fn times() -> i32 {
    // SAFETY: times(2) accepts a null buffer and then writes nothing.
    unsafe { call(TIMES, [0; 4]) }
}

/// accept4(2) by its own number.
///
/// # Errors
/// That of the system call.
pub fn accept4(listener: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: without an address argument the kernel writes no memory of this process.
    descriptor(unsafe { call(ACCEPT4, [listener.as_raw_fd().cast_unsigned(), 0, 0, 0]) })
}

/// accept(2) and accept4(2) through socketcall(2), as older C libraries make them.
///
/// # Errors
/// That of the system call.
///
/// # Panics
/// If there is no memory below 4 GiB.
pub fn socketcall(listener: &impl AsRawFd, with_flags: bool) -> io::Result<OwnedFd> {
    let flags = MapFlags::PRIVATE | MapFlags::from_bits_retain(MAP_32BIT);
    // SAFETY: a new anonymous mapping at an address that the kernel chooses.
    let page =
        unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, flags) };
    let arguments = page.expect("memory below 4 GiB").cast::<[u32; 4]>();
    let number = if with_flags { SYS_ACCEPT4 } else { SYS_ACCEPT };
    let address = u32::try_from(arguments.addr()).expect("an address below 4 GiB");
    // SAFETY: the page was just mapped, is large enough and aligned, and is never unmapped. The call only
    // reads it.
    descriptor(unsafe {
        arguments.write([listener.as_raw_fd().cast_unsigned(), 0, 0, 0]);
        call(SOCKETCALL, [number, address, 0, 0])
    })
}

fn descriptor(result: i32) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the system call just returned this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// One system call through int 0x80.
///
/// # Safety
/// The arguments must be valid for the system call.
unsafe fn call(number: u32, [first, second, third, fourth]: [u32; 4]) -> i32 {
    let result: u32;
    // SAFETY: the int 0x80 entry preserves every register except rax and r8 to r11. LLVM reserves rbx, so it
    // is exchanged and restored.
    unsafe {
        asm!(
            "xchg rbx, {first:r}",
            "int 0x80",
            "xchg rbx, {first:r}",
            first = inout(reg) u64::from(first) => _,
            inout("eax") number => result,
            in("ecx") second,
            in("edx") third,
            in("esi") fourth,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result.cast_signed()
}
