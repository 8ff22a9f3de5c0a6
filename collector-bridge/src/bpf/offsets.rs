//! Where the kernel keeps what the programs read: member offsets from its BTF, system call numbers of its ABI.
//!
//! Each offset becomes a frozen constant of the programs (ebpf/src/offsets.rs). A member of another type than the programs
//! read is refused here; of typed loads the verifier checks the offset, too.

use Holds::{Array, AtLeast, Bytes, Pointer};
use btf_rs::{Btf, Member, Struct, Type};
use thiserror::Error;

/// The running kernel's own types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Stands for a member that this kernel lacks; the verifier removes the branch that would read it.
const ABSENT: u64 = u64::MAX;

/// A kernel that the programs cannot be fitted to.
#[derive(Debug, Error)]
pub enum OffsetError {
    /// The kernel's BTF could not be read.
    #[error(
        "cannot read the kernel's type information {path}: {cause}; acceptd needs a kernel built with CONFIG_DEBUG_INFO_BTF=y, and /sys mounted"
    )]
    Unreadable {
        /// File that was read.
        path: String,
        /// Why it failed.
        cause: String,
    },
    /// The BTF has no such member, so the programs would not know where to read.
    #[error(
        "Linux {kernel} has no member `{member}` in `struct {structure}`, by its type information; this kernel is not supported yet, please report it"
    )]
    MissingMember {
        /// Its release.
        kernel: String,
        /// Name of the struct.
        structure: &'static str,
        /// Name of the member.
        member: &'static str,
    },
    /// At the offset of the member is not what the programs read there.
    #[error(
        "Linux {kernel} has {found} as member `{member}` of `struct {structure}`, by its type information, where acceptd reads {expected}; this kernel is not supported yet, please report it"
    )]
    OtherType {
        /// Its release.
        kernel: String,
        /// Name of the struct.
        structure: &'static str,
        /// Name of the member.
        member: &'static str,
        /// What the member is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Programs exist for this architecture's register layout only.
    #[error("no system call layout is known for {0}; acceptd runs on x86_64 and aarch64")]
    UnknownArchitecture(&'static str),
}

impl OffsetError {
    const fn is_absence(&self) -> bool {
        matches!(self, Self::MissingMember { .. })
    }
}

/// One value for one global of the programs.
pub type Value = (&'static str, u64);

/// A path of members: the offset of the last within the first, through embedded structs.
type Path = &'static [(&'static str, &'static str)];

/// What the programs read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Pointer,
    /// A number, or a struct around one.
    Bytes(usize),
    /// Likewise: its lower half serves.
    AtLeast(usize),
    Array,
}

impl std::fmt::Display for Holds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pointer => out.write_str("a pointer"),
            Bytes(size) => write!(out, "{size} bytes"),
            AtLeast(size) => write!(out, "at least {size} bytes"),
            Array => out.write_str("an array"),
        }
    }
}

/// The global, what it is the offset of, and where that is.
const MEMBERS: &[(&str, Holds, Path)] = &[
    ("TASK_FILES", Pointer, &[("task_struct", "files")]),
    ("TASK_PID", Bytes(4), &[("task_struct", "pid")]),
    ("TASK_TGID", Bytes(4), &[("task_struct", "tgid")]),
    ("TASK_GROUP_LEADER", Pointer, &[("task_struct", "group_leader")]),
    ("TASK_START_BOOTTIME", Bytes(8), &[("task_struct", "start_boottime")]),
    ("TASK_SELF_EXEC_ID", Bytes(8), &[("task_struct", "self_exec_id")]),
    ("TASK_CRED", Pointer, &[("task_struct", "cred")]),
    ("TASK_MM", Pointer, &[("task_struct", "mm")]),
    ("TASK_FLAGS", Bytes(4), &[("task_struct", "flags")]),
    ("TASK_COMM", Array, &[("task_struct", "comm")]),
    ("TASK_CGROUPS", Pointer, &[("task_struct", "cgroups")]),
    ("CSS_SET_CGROUP", Pointer, &[("css_set", "dfl_cgrp")]),
    ("CGROUP_NODE", Pointer, &[("cgroup", "kn")]),
    ("NODE_ID", Bytes(8), &[("kernfs_node", "id")]),
    ("CRED_UID", Bytes(4), &[("cred", "uid")]),
    ("CRED_EUID", Bytes(4), &[("cred", "euid")]),
    ("CRED_EGID", Bytes(4), &[("cred", "egid")]),
    ("MM_EXE_FILE", Pointer, &[("mm_struct", "exe_file")]),
    ("MM_ARG_START", Bytes(8), &[("mm_struct", "arg_start")]),
    ("FILE_DENTRY", Pointer, &[("file", "f_path"), ("path", "dentry")]),
    ("DENTRY_NAME", Pointer, &[("dentry", "d_name"), ("qstr", "name")]),
    ("FILES_FDT", Pointer, &[("files_struct", "fdt")]),
    ("FDT_FD", Pointer, &[("fdtable", "fd")]),
    ("FDT_MAX_FDS", Bytes(4), &[("fdtable", "max_fds")]),
    ("FILE_PRIVATE_DATA", Pointer, &[("file", "private_data")]),
    ("FILE_INODE", Pointer, &[("file", "f_inode")]),
    ("INODE_NUMBER", Bytes(8), &[("inode", "i_ino")]),
    ("SOCKET_FILE", Pointer, &[("socket", "file")]),
    ("SOCKET_SK", Pointer, &[("socket", "sk")]),
    ("SK_SOCKET", Pointer, &[("sock", "sk_socket")]),
    ("SK_FAMILY", Bytes(2), &[("sock_common", "skc_family")]),
    ("SK_PROTOCOL", Bytes(2), &[("sock", "sk_protocol")]),
    ("SK_TYPE", Bytes(2), &[("sock", "sk_type")]),
    ("SK_FLAGS", Bytes(8), &[("sock_common", "skc_flags")]),
    ("SK_STATE", Bytes(1), &[("sock_common", "skc_state")]),
    ("SK_ERR", Bytes(4), &[("sock", "sk_err")]),
    ("SK_DROPS", Bytes(4), &[("sock", "sk_drops")]),
    ("SK_RECEIVE_NEXT", Pointer, &[("sock", "sk_receive_queue"), ("sk_buff_head", "next")]),
    ("SK_RECEIVE_LENGTH", Bytes(4), &[("sock", "sk_receive_queue"), ("sk_buff_head", "qlen")]),
    ("SK_COOKIE", Bytes(8), &[("sock_common", "skc_cookie")]),
    ("SK_NET", Bytes(8), &[("sock_common", "skc_net")]),
    ("NET_INUM", Bytes(4), &[("net", "ns"), ("ns_common", "inum")]),
    ("SK_DPORT", Bytes(2), &[("sock_common", "skc_dport")]),
    ("SK_DADDR", Bytes(4), &[("sock_common", "skc_daddr")]),
    ("SK_RCV_SADDR", Bytes(4), &[("sock_common", "skc_rcv_saddr")]),
    ("SK_V6_DADDR", Bytes(16), &[("sock_common", "skc_v6_daddr")]),
    ("SK_V6_RCV_SADDR", Bytes(16), &[("sock_common", "skc_v6_rcv_saddr")]),
    ("SK_ACK_BACKLOG", Bytes(4), &[("sock", "sk_ack_backlog")]),
    ("SK_MAX_ACK_BACKLOG", Bytes(4), &[("sock", "sk_max_ack_backlog")]),
    ("INET_SPORT", Bytes(2), &[("inet_sock", "inet_sport")]),
    ("TCP_SRTT_US", Bytes(4), &[("tcp_sock", "srtt_us")]),
    ("TCP_TOTAL_RETRANS", Bytes(4), &[("tcp_sock", "total_retrans")]),
    ("TCP_BYTES_RECEIVED", Bytes(8), &[("tcp_sock", "bytes_received")]),
    ("TCP_BYTES_SENT", Bytes(8), &[("tcp_sock", "bytes_sent")]),
    ("TCP_BYTES_RETRANS", Bytes(8), &[("tcp_sock", "bytes_retrans")]),
    ("TCP_REQUEST_SNT_SYNACK", Bytes(8), &[("tcp_request_sock", "snt_synack")]),
    ("TCP_OVERFLOW_STAMP", Bytes(4), &[("tcp_sock", "rx_opt"), ("tcp_options_received", "ts_recent_stamp")]),
    ("SK_REUSEPORT", Pointer, &[("sock", "sk_reuseport_cb")]),
    ("REUSEPORT_OVERFLOW_STAMP", Bytes(4), &[("sock_reuseport", "synq_overflow_ts")]),
    (
        "ACCEPT_QUEUE_HEAD",
        Pointer,
        &[("inet_connection_sock", "icsk_accept_queue"), ("request_sock_queue", "rskq_accept_head")],
    ),
    ("REQUEST_SK", Pointer, &[("request_sock", "sk")]),
    ("UNIX_ADDR", Pointer, &[("unix_sock", "addr")]),
    ("UNIX_PEER", Pointer, &[("unix_sock", "peer")]),
    ("SK_PEER_PID", Pointer, &[("sock", "sk_peer_pid")]),
    ("PID_NUMBER", Bytes(4), &[("pid", "numbers"), ("upid", "nr")]),
    ("PID_TASKS", Array, &[("pid", "tasks")]),
    ("TASK_PID_LINKS", Array, &[("task_struct", "pid_links")]),
    ("UNIX_ADDRESS_LEN", Bytes(4), &[("unix_address", "len")]),
    ("UNIX_ADDRESS_PATH", Array, &[("unix_address", "name"), ("sockaddr_un", "sun_path")]),
    ("ITER_SEQ", Pointer, &[("bpf_iter_meta", "seq")]),
];

/// Members that a kernel may lack: one without Multipath TCP, VSOCK or io_uring. VSOCK may also be a module.
const OPTIONAL: &[(&str, Holds, Path)] = &[
    ("MPTCP_FIRST", Pointer, &[("mptcp_sock", "first")]),
    ("VSOCK_LOCAL_CID", Bytes(4), &[("vsock_sock", "local_addr"), ("sockaddr_vm", "svm_cid")]),
    ("VSOCK_LOCAL_PORT", Bytes(4), &[("vsock_sock", "local_addr"), ("sockaddr_vm", "svm_port")]),
    ("VSOCK_REMOTE_CID", Bytes(4), &[("vsock_sock", "remote_addr"), ("sockaddr_vm", "svm_cid")]),
    ("VSOCK_REMOTE_PORT", Bytes(4), &[("vsock_sock", "remote_addr"), ("sockaddr_vm", "svm_port")]),
    ("IO_OPCODE", Bytes(1), &[("io_kiocb", "opcode")]),
    ("IO_FD", Bytes(4), &[("io_kiocb", "cqe"), ("io_cqe", "fd")]),
    ("IO_FLAGS", AtLeast(4), &[("io_kiocb", "flags")]),
    ("IO_FILE", Pointer, &[("io_kiocb", "file")]),
    ("IO_ACCEPT_FILE_SLOT", Bytes(4), &[("io_accept", "file_slot")]),
    ("IO_CQE_RES", Bytes(4), &[("io_uring_cqe", "res")]),
    ("IO_CQE_FLAGS", Bytes(4), &[("io_uring_cqe", "flags")]),
];

/// How one architecture passes system calls.
struct Abi {
    /// Member of `struct pt_regs` with the number of the system call.
    number: &'static str,
    /// Members with the first arguments, each with what lies between the member's begin and it.
    arguments: [(&'static str, u64); 3],
    compat_arguments: [(&'static str, u64); 3],
    /// Path of the word that marks a call of the compatibility ABI, and its bits.
    compat: Path,
    compat_mask: u64,
    numbers: [Value; 11],
}

/// `arch/x86/entry/syscalls/syscall_{64,32}.tbl`; `TS_COMPAT`, `arch/x86/include/asm/thread_info.h`
const X86_64: Abi = Abi {
    number: "orig_ax",
    arguments: [("di", 0), ("si", 0), ("dx", 0)],
    compat_arguments: [("bx", 0), ("cx", 0), ("dx", 0)],
    compat: &[("task_struct", "thread_info"), ("thread_info", "status")],
    compat_mask: 0x2,
    numbers: [
        ("NR_ACCEPT", 43),
        ("NR_ACCEPT4", 288),
        ("NR_LISTEN", 50),
        ("NR_BIND", 49),
        ("NR_SOCKET", 41),
        ("NR_COMPAT_ACCEPT", ABSENT),
        ("NR_COMPAT_ACCEPT4", 364),
        ("NR_COMPAT_LISTEN", 363),
        ("NR_COMPAT_BIND", 361),
        ("NR_COMPAT_SOCKET", 359),
        ("NR_COMPAT_SOCKETCALL", 102),
    ],
};

/// `include/uapi/asm-generic/unistd.h`, `arch/arm64/tools/syscall_32.tbl`; `TIF_32BIT`,
/// `arch/arm64/include/asm/thread_info.h`
const AARCH64: Abi = Abi {
    number: "syscallno",
    // The first register holds the result by now.
    arguments: [("orig_x0", 0), ("regs", 8), ("regs", 16)],
    compat_arguments: [("orig_x0", 0), ("regs", 8), ("regs", 16)],
    compat: &[("task_struct", "thread_info"), ("thread_info", "flags")],
    compat_mask: 1 << 22,
    numbers: [
        ("NR_ACCEPT", 202),
        ("NR_ACCEPT4", 242),
        ("NR_LISTEN", 201),
        ("NR_BIND", 200),
        ("NR_SOCKET", 198),
        ("NR_COMPAT_ACCEPT", 285),
        ("NR_COMPAT_ACCEPT4", 366),
        ("NR_COMPAT_LISTEN", 284),
        ("NR_COMPAT_BIND", 282),
        ("NR_COMPAT_SOCKET", 281),
        ("NR_COMPAT_SOCKETCALL", ABSENT),
    ],
};

/// Reads the running kernel's BTF and resolves every value that the programs need, for this machine's
/// architecture. Costs some 40 MB while it runs.
///
/// # Errors
/// BTF that cannot be read, or that lacks a member.
pub fn resolve(path: &str) -> Result<Vec<Value>, OffsetError> {
    let bytes = std::fs::read(path).map_err(|cause| unreadable(path, &cause))?;
    // Modules have files of their own beside it.
    let vsock = std::fs::read(std::path::Path::new(path).with_file_name("vsock")).ok();
    of_bytes(&bytes, vsock.as_deref(), path)
}

/// [`resolve`] of BTF that was read from `path`, and of that of the module vsock where there is one. That it cannot be
/// parsed costs the addresses of VSOCK, and nothing else.
///
/// # Errors
/// Likewise.
pub fn of_bytes(bytes: &[u8], vsock: Option<&[u8]>, path: &str) -> Result<Vec<Value>, OffsetError> {
    let btf = Btf::from_bytes(bytes).map_err(|cause| unreadable(path, &cause))?;
    let vsock = vsock.and_then(|bytes| Btf::from_split_bytes(bytes, &btf).ok());
    let abi = match std::env::consts::ARCH {
        "x86_64" => X86_64,
        "aarch64" => AARCH64,
        other => return Err(OffsetError::UnknownArchitecture(other)),
    };
    values(&btf, vsock.as_ref(), &abi)
}

fn unreadable(path: &str, cause: &dyn std::fmt::Display) -> OffsetError {
    OffsetError::Unreadable { path: path.to_owned(), cause: cause.to_string() }
}

fn values(btf: &Btf, vsock: Option<&Btf>, abi: &Abi) -> Result<Vec<Value>, OffsetError> {
    let mut values = Vec::with_capacity(MEMBERS.len() + OPTIONAL.len() + 24);
    for &(global, holds, path) in MEMBERS {
        values.push((global, offset(btf, holds, path)?));
    }
    for &(global, holds, path) in OPTIONAL {
        let found = offset(btf, holds, path).or_else(|error| match vsock {
            Some(vsock) if error.is_absence() => offset(vsock, holds, path),
            _ => Err(error),
        });
        values
            .push((global, found.or_else(|error| if error.is_absence() { Ok(ABSENT) } else { Err(error) })?));
    }
    let register = |member| offset(btf, AtLeast(4), &[("pt_regs", member)]);
    values.push(("PT_REGS_NR", register(abi.number)?));
    let globals = [
        "PT_REGS_ARG0",
        "PT_REGS_ARG1",
        "PT_REGS_ARG2",
        "PT_REGS_COMPAT_ARG0",
        "PT_REGS_COMPAT_ARG1",
        "PT_REGS_COMPAT_ARG2",
    ];
    for (global, (member, beyond)) in
        globals.into_iter().zip(abi.arguments.into_iter().chain(abi.compat_arguments))
    {
        // An array of them on arm64.
        values.push((global, offset_of(btf, "pt_regs", member)?.0 + beyond));
    }
    values
        .push(("IO_COMPLETE_BY_CQE", u64::from(arguments_of(btf, "btf_trace_io_uring_complete") == Some(3))));
    let (byte, mask) = flag(btf, "tcp_sock", "is_mptcp").unwrap_or((ABSENT, 0));
    values.extend([("TCP_IS_MPTCP", byte), ("TCP_IS_MPTCP_MASK", mask)]);
    values.push(("TASK_COMPAT_FLAGS", offset(btf, AtLeast(4), abi.compat)?));
    values.push(("COMPAT_MASK", abi.compat_mask));
    values.extend(abi.numbers);
    Ok(values)
}

/// The byte that a flag is in, and its bits there: a bool of its own, or one bit of a field.
fn flag(btf: &Btf, structure: &str, member: &str) -> Option<(u64, u64)> {
    let types = btf.resolve_types_by_name(structure).ok()?;
    types.iter().find_map(|candidate| {
        let Type::Struct(found) = candidate else { return None };
        let is_it = |field: &&Member| btf.resolve_name(*field).is_ok_and(|name| name == member);
        let field = found.members.iter().find(is_it)?;
        let mask = match field.bitfield_size() {
            Some(bits @ 1..=7) => ((1 << bits) - 1) << (field.bit_offset() % 8),
            _ => 0xff,
        };
        Some((u64::from(field.bit_offset() / 8), mask))
    })
}

/// How many arguments the program on a tracepoint gets: those of its type, less the first, which is the kernel's own.
fn arguments_of(btf: &Btf, tracepoint: &str) -> Option<usize> {
    let types = btf.resolve_types_by_name(tracepoint).ok()?;
    let Type::Typedef(typedef) = types.into_iter().find(|found| matches!(found, Type::Typedef(_)))? else {
        return None;
    };
    let Ok(Type::Ptr(pointer)) = btf.resolve_chained_type(&typedef) else { return None };
    let Ok(Type::FuncProto(prototype)) = btf.resolve_chained_type(&pointer) else { return None };
    prototype.parameters.len().checked_sub(1)
}

fn offset(btf: &Btf, holds: Holds, path: &[(&'static str, &'static str)]) -> Result<u64, OffsetError> {
    let mut sum = 0;
    let mut last = None;
    for &(structure, member) in path {
        let (offset, found) = offset_of(btf, structure, member)?;
        sum += offset;
        last = Some((structure, member, found));
    }
    if let Some((structure, member, found)) = last {
        let found = what(btf, &found);
        let is_it = match (holds, found) {
            (AtLeast(least), Some(Bytes(size))) => size >= least,
            (holds, found) => Some(holds) == found,
        };
        if !is_it {
            return Err(OffsetError::OtherType {
                kernel: release(),
                structure,
                member,
                found: found.map_or("something else".to_owned(), |found| found.to_string()),
                expected: holds.to_string(),
            });
        }
    }
    Ok(sum)
}

/// What a member is, through typedefs and qualifiers.
fn what(btf: &Btf, member: &Member) -> Option<Holds> {
    /// More is a loop.
    const LONGEST: usize = 16;
    btf.chained_type_iter(member).take(LONGEST).find_map(|candidate| match candidate {
        Type::Ptr(_) => Some(Pointer),
        Type::Array(_) => Some(Array),
        Type::Int(found) => Some(Bytes(found.size())),
        Type::Enum(found) => Some(Bytes(found.size())),
        Type::Struct(found) | Type::Union(found) => Some(Bytes(found.size())),
        _ => None,
    })
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn offset_of(btf: &Btf, structure: &'static str, member: &'static str) -> Result<(u64, Member), OffsetError> {
    btf.resolve_types_by_name(structure)
        .unwrap_or_default()
        .iter()
        .find_map(|candidate| match candidate {
            Type::Struct(found) => find(btf, found, member),
            _ => None,
        })
        .ok_or_else(|| OffsetError::MissingMember { kernel: release(), structure, member })
}

/// `member` in `structure` and its byte offset, looking into anonymous structs and unions.
fn find(btf: &Btf, structure: &Struct, member: &str) -> Option<(u64, Member)> {
    structure.members.iter().find_map(|candidate| {
        let at = u64::from(candidate.bit_offset() / 8);
        match btf.resolve_name(candidate).unwrap_or_default() {
            name if name == member => Some((at, candidate.clone())),
            name if name.is_empty() => match btf.resolve_chained_type(candidate) {
                Ok(Type::Struct(inner) | Type::Union(inner)) => {
                    let (within, found) = find(btf, &inner, member)?;
                    Some((at + within, found))
                }
                _ => None,
            },
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the name begins.
    fn position(bytes: &[u8], name: &str) -> usize {
        let needle = [b"\0", name.as_bytes(), b"\0"].concat();
        let at = bytes.windows(needle.len()).position(|window| window == needle);
        at.expect("the name is there") + 1
    }

    fn vmlinux_without(name: &str) -> Vec<u8> {
        let mut bytes = std::fs::read(VMLINUX).expect("the test machine has BTF");
        let at = position(&bytes, name);
        bytes[at] = b'X';
        bytes
    }

    #[test]
    fn a_member_at_the_offset_of_another_is_named() {
        let mut bytes = std::fs::read(VMLINUX).expect("the test machine has BTF");
        // As long as each other.
        let (one, other) = ("group_leader", "self_exec_id");
        let (at, at_other) = (position(&bytes, one), position(&bytes, other));
        bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
        bytes[at_other..at_other + one.len()].copy_from_slice(one.as_bytes());
        let btf = Btf::from_bytes(&bytes).expect("still valid BTF");
        let error = values(&btf, None, &X86_64).expect_err("a number is no pointer").to_string();
        let release = release();
        let words =
            [release.as_str(), "8 bytes", "`group_leader`", "`struct task_struct`", "reads a pointer"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    #[test]
    fn a_missing_member_is_named() {
        let btf = Btf::from_bytes(&vmlinux_without("sk_max_ack_backlog")).expect("still valid BTF");
        let error = values(&btf, None, &X86_64).expect_err("a needed member is gone");
        assert!(error.to_string().contains("no member `sk_max_ack_backlog` in `struct sock`"), "{error}");
    }

    #[test]
    fn a_member_that_a_kernel_may_lack_is_absent() {
        let btf = Btf::from_bytes(&vmlinux_without("mptcp_sock")).expect("still valid BTF");
        let values = values(&btf, None, &X86_64).expect("mptcp is optional");
        assert!(values.contains(&("MPTCP_FIRST", ABSENT)));
    }

    #[test]
    fn a_missing_file_is_named_with_the_remedy() {
        let error = resolve("/nonexistent/btf").expect_err("there is no such file").to_string();
        assert!(error.contains("/nonexistent/btf") && error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }

    #[test]
    fn truncated_btf_is_an_error() {
        let bytes = std::fs::read(VMLINUX).expect("the test machine has BTF");
        for length in [0, 3, 23, 24, 1_000, bytes.len() / 2] {
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            std::fs::write(file.path(), &bytes[..length]).expect("the file is writable");
            resolve(file.path().to_str().expect("a plain path")).expect_err("truncated BTF");
        }
    }
}
