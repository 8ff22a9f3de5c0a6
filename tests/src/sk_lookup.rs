//! Gives connections to a port without a listener to the listener of another port, as a transparent proxy
//! does (BPF `sk_lookup`): the connection's local port is then not that of its listener.
#![allow(unsafe_code, reason = "the C library has no function for bpf(2)")]

use std::{
    ffi::{c_int, c_long},
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: c_int = 0;
const BPF_MAP_UPDATE_ELEM: c_int = 2;
const BPF_PROG_LOAD: c_int = 5;
const BPF_LINK_CREATE: c_int = 28;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;

#[cfg(target_arch = "x86_64")]
const SYS_BPF: c_long = 321;
#[cfg(target_arch = "aarch64")]
const SYS_BPF: c_long = 280;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// Redirects connections to a port while it exists.
#[derive(Debug)]
pub struct Redirect {
    _link: OwnedFd,
}

impl Redirect {
    /// In the network namespace of this process, gives connections to `port` to `listener`.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn new(port: u16, listener: &impl std::os::fd::AsRawFd) -> Self {
        let map = descriptor(BPF_MAP_CREATE, &words(&[BPF_MAP_TYPE_SOCKMAP, 4, 8, 1]), "a map of sockets");
        let (key, socket) = (0_u32, u64::try_from(listener.as_raw_fd()).expect("a descriptor"));
        let entry = [raw(&map), address(&raw const key), address(&raw const socket), 0];
        bpf(BPF_MAP_UPDATE_ELEM, &entry).expect("a listening socket");
        let program = instructions(port, raw(&map));
        let (license, name) = (c"GPL", 0_u64);
        let mut load = [
            // prog_type, insn_cnt
            u64::from(BPF_PROG_TYPE_SK_LOOKUP) | (program.len() as u64) << 32,
            address(program.as_ptr()),
            address(license.as_ptr()),
            // log_level, log_size, log_buf, kern_version, prog_flags, prog_name, prog_ifindex
            0,
            0,
            0,
            name,
            name,
            0,
        ];
        load[8] = u64::from(BPF_SK_LOOKUP) << 32;
        let program = descriptor(BPF_PROG_LOAD, &load, "the program");
        let namespace = File::open("/proc/thread-self/ns/net").expect("/proc");
        let create = [
            raw(&program) | u64::try_from(namespace.as_raw_fd()).expect("a descriptor") << 32,
            u64::from(BPF_SK_LOOKUP),
        ];
        Self { _link: descriptor(BPF_LINK_CREATE, &create, "the link") }
    }
}

/// The program: `if (ctx->local_port == port) bpf_sk_assign(ctx, map[0]); return SK_PASS;`
fn instructions(port: u16, map: u64) -> Vec<u64> {
    let instruction = |code: u64, to: u64, from: u64, offset: i16, value: u32| {
        code | to << 8 | from << 12 | u64::from(offset.cast_unsigned()) << 16 | u64::from(value) << 32
    };
    let map = u32::try_from(map).expect("a descriptor");
    vec![
        instruction(0xbf, 6, 1, 0, 0),
        instruction(0x61, 2, 1, 60, 0),
        instruction(0x55, 2, 0, 14, u32::from(port)),
        instruction(0x18, 1, 1, 0, map),
        0,
        instruction(0x62, 10, 0, -4, 0),
        instruction(0xbf, 2, 10, 0, 0),
        instruction(0x07, 2, 0, 0, (-4_i32).cast_unsigned()),
        instruction(0x85, 0, 0, 0, 1),
        instruction(0x15, 0, 0, 7, 0),
        instruction(0xbf, 7, 0, 0, 0),
        instruction(0xbf, 1, 6, 0, 0),
        instruction(0xbf, 2, 7, 0, 0),
        instruction(0xb7, 3, 0, 0, 0),
        instruction(0x85, 0, 0, 0, 124),
        instruction(0xbf, 1, 7, 0, 0),
        instruction(0x85, 0, 0, 0, 86),
        instruction(0xb7, 0, 0, 0, 1),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

fn words(values: &[u32; 4]) -> [u64; 2] {
    let [a, b, c, d] = values.map(u64::from);
    [a | b << 32, c | d << 32]
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

fn raw(descriptor: &OwnedFd) -> u64 {
    u64::try_from(descriptor.as_raw_fd()).expect("a descriptor")
}

fn descriptor(command: c_int, attributes: &[u64], what: &str) -> OwnedFd {
    let number = bpf(command, attributes).unwrap_or_else(|error| panic!("{what}: {error}"));
    // SAFETY: the system call just returned this descriptor, so nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn bpf(command: c_int, attributes: &[u64]) -> io::Result<c_int> {
    // SAFETY: the attributes and what they point to outlive the call, and have the layout of this command in
    // `union bpf_attr`.
    let result = unsafe { syscall(SYS_BPF, command, attributes.as_ptr(), size_of_val(attributes)) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(c_int::try_from(result).unwrap_or(c_int::MAX))
    }
}
