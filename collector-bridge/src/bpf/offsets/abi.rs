//! The system call ABI of each supported architecture.

use super::{
    btf::MemberPath,
    value::{ABSENT, GlobalValue},
};

/// The system call ABI of one architecture.
pub(super) struct Abi {
    /// Member of `struct pt_regs` with the system call number.
    pub(super) number: &'static str,
    /// Members of `struct pt_regs` with the first three arguments, each with the argument's offset within the
    /// member.
    pub(super) arguments: [(&'static str, u64); 3],
    /// Member of `struct pt_regs` with the result of a function of the kernel, at its start.
    pub(super) result: &'static str,
    /// The same as `arguments` for calls of the compatibility (32-bit) ABI.
    pub(super) compat_arguments: [(&'static str, u64); 3],
    /// Path of the word whose bits `compat_mask` are set in a call of the compatibility ABI.
    pub(super) compat: MemberPath,
    pub(super) compat_mask: u64,
    pub(super) numbers: [GlobalValue; 13],
}

/// The `x86_64` ABI: `arch/x86/entry/syscalls/syscall_{64,32}.tbl`, and `TS_COMPAT` in
/// `arch/x86/include/asm/thread_info.h`.
pub(super) const X86_64: Abi = Abi {
    number: "orig_ax",
    arguments: [("di", 0), ("si", 0), ("dx", 0)],
    result: "ax",
    compat_arguments: [("bx", 0), ("cx", 0), ("dx", 0)],
    compat: &[("task_struct", "thread_info"), ("thread_info", "status")],
    compat_mask: 0x2,
    numbers: [
        ("NR_ACCEPT", 43),
        ("NR_ACCEPT4", 288),
        ("NR_CONNECT", 42),
        ("NR_LISTEN", 50),
        ("NR_BIND", 49),
        ("NR_SOCKET", 41),
        ("NR_COMPAT_ACCEPT", ABSENT),
        ("NR_COMPAT_ACCEPT4", 364),
        ("NR_COMPAT_CONNECT", 362),
        ("NR_COMPAT_LISTEN", 363),
        ("NR_COMPAT_BIND", 361),
        ("NR_COMPAT_SOCKET", 359),
        ("NR_COMPAT_SOCKETCALL", 102),
    ],
};

/// The aarch64 ABI: `include/uapi/asm-generic/unistd.h`, `arch/arm64/tools/syscall_32.tbl`, and `TIF_32BIT`
/// in `arch/arm64/include/asm/thread_info.h`.
pub(super) const AARCH64: Abi = Abi {
    number: "syscallno",
    // On exit the first register already holds the result; `orig_x0` still has the argument.
    arguments: [("orig_x0", 0), ("regs", 8), ("regs", 16)],
    result: "regs",
    compat_arguments: [("orig_x0", 0), ("regs", 8), ("regs", 16)],
    compat: &[("task_struct", "thread_info"), ("thread_info", "flags")],
    compat_mask: 1 << 22,
    numbers: [
        ("NR_ACCEPT", 202),
        ("NR_ACCEPT4", 242),
        ("NR_CONNECT", 203),
        ("NR_LISTEN", 201),
        ("NR_BIND", 200),
        ("NR_SOCKET", 198),
        ("NR_COMPAT_ACCEPT", 285),
        ("NR_COMPAT_ACCEPT4", 366),
        ("NR_COMPAT_CONNECT", 283),
        ("NR_COMPAT_LISTEN", 284),
        ("NR_COMPAT_BIND", 282),
        ("NR_COMPAT_SOCKET", 281),
        ("NR_COMPAT_SOCKETCALL", ABSENT),
    ],
};
