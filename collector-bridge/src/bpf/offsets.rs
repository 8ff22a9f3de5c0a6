//! Resolves what the programs need to know about this kernel: member offsets, from the kernel's BTF, and
//! system call numbers and registers, from the architecture's ABI.
//!
//! Each value becomes a read-only constant of the programs (ebpf/src/offsets.rs). A member whose type differs
//! from what the programs read is refused here. For typed loads the verifier checks the offset as well.

mod abi;
mod btf;
mod error;
mod members;
mod value;

use abi::{AARCH64, Abi, X86_64};
use btf::{
    FieldType::{self, AtLeast, Bytes},
    MemberPath, flag_mask, function_argument_count, member_offset, path_offset, tracepoint_argument_count,
};
use btf_rs::Btf;
pub use error::OffsetError;
use members::{MEMBERS, OPTIONAL};
use value::ABSENT;
pub use value::GlobalValue;

/// The running kernel's own types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Reads the kernel's BTF from `path` and resolves every value that the programs need on this machine's
/// architecture. Takes about 40 MB of memory while it runs.
///
/// # Errors
/// See [`OffsetError`].
pub fn resolve(path: &str) -> Result<Vec<GlobalValue>, OffsetError> {
    let bytes = std::fs::read(path).map_err(|cause| unreadable(path, &cause))?;
    // The BTF of each module is a separate file in the same folder.
    let module = |name| std::fs::read(std::path::Path::new(path).with_file_name(name)).ok();
    let modules: Vec<_> = ["vsock", "smc"].into_iter().filter_map(module).collect();
    resolve_bytes(&bytes, &modules, path)
}

/// Like [`resolve`], for BTF that was read from `path` already, and the BTF of modules that have members of
/// their own. If a module's BTF cannot be parsed, only its members are missing.
///
/// # Errors
/// See [`OffsetError`].
pub fn resolve_bytes(bytes: &[u8], modules: &[Vec<u8>], path: &str) -> Result<Vec<GlobalValue>, OffsetError> {
    let btf = Btf::from_bytes(bytes).map_err(|cause| unreadable(path, &cause))?;
    let modules: Vec<_> =
        modules.iter().filter_map(|bytes| Btf::from_split_bytes(bytes, &btf).ok()).collect();
    let abi = match std::env::consts::ARCH {
        "x86_64" => X86_64,
        "aarch64" => AARCH64,
        other => return Err(OffsetError::UnknownArchitecture(other)),
    };
    values(&btf, &modules, &abi)
}

/// The offset of the socket in `struct sctp_endpoint`, by the BTF of the module `sctp` beside that of the
/// kernel at `path`. The kernel's own has the type if SCTP is built in.
///
/// # Errors
/// See [`OffsetError`].
pub fn sctp_endpoint_sock(path: &str, module: &str) -> Result<u64, OffsetError> {
    let bytes = std::fs::read(path).map_err(|cause| unreadable(path, &cause))?;
    let kernel = Btf::from_bytes(&bytes).map_err(|cause| unreadable(path, &cause))?;
    let of_module = std::fs::read(std::path::Path::new(path).with_file_name(module)).ok();
    let module = of_module.and_then(|bytes| Btf::from_split_bytes(&bytes, &kernel).ok());
    let members: MemberPath = &[("sctp_endpoint", "base"), ("sctp_ep_common", "sk")];
    path_offset(module.as_ref().unwrap_or(&kernel), FieldType::Pointer, members)
}

fn unreadable(path: &str, cause: &dyn std::fmt::Display) -> OffsetError {
    OffsetError::Unreadable { path: path.to_owned(), cause: cause.to_string() }
}

fn values(btf: &Btf, modules: &[Btf], abi: &Abi) -> Result<Vec<GlobalValue>, OffsetError> {
    let mut values = Vec::with_capacity(MEMBERS.len() + OPTIONAL.len() + 24);
    for &(global, expected, path) in MEMBERS {
        values.push((global, path_offset(btf, expected, path)?));
    }
    for &(global, expected, path) in OPTIONAL {
        let found = modules.iter().fold(path_offset(btf, expected, path), |found, module| {
            found.or_else(|error| {
                if error.is_missing_member() { path_offset(module, expected, path) } else { Err(error) }
            })
        });
        values.push((
            global,
            found.or_else(|error| if error.is_missing_member() { Ok(ABSENT) } else { Err(error) })?,
        ));
    }
    // The helper has the name of the kernel's function behind it.
    let has_typed_unix =
        btf.resolve_types_by_name("bpf_skc_to_unix_sock").is_ok_and(|found| !found.is_empty());
    let unix_path = path_offset(btf, Bytes(16), &[("unix_sock", "path")]);
    values.push(("UNIX_PATH", unix_path.ok().filter(|_| has_typed_unix).unwrap_or(ABSENT)));
    let register = |member| path_offset(btf, AtLeast(4), &[("pt_regs", member)]);
    values.push(("PT_REGS_NR", register(abi.number)?));
    let globals = [
        "PT_REGS_ARG0",
        "PT_REGS_ARG1",
        "PT_REGS_ARG2",
        "PT_REGS_COMPAT_ARG0",
        "PT_REGS_COMPAT_ARG1",
        "PT_REGS_COMPAT_ARG2",
    ];
    for (global, (member, within)) in
        globals.into_iter().zip(abi.arguments.into_iter().chain(abi.compat_arguments))
    {
        // On arm64 the registers are one array, so the argument has an offset within the member.
        values.push((global, member_offset(btf, "pt_regs", member)?.0 + within));
    }
    values.push(("PT_REGS_RESULT", member_offset(btf, "pt_regs", abi.result)?.0));
    values.push((
        "IO_COMPLETE_BY_CQE",
        u64::from(tracepoint_argument_count(btf, "btf_trace_io_uring_complete") == Some(3)),
    ));
    let arguments = function_argument_count(btf, "unix_find_other").unwrap_or_default();
    values.push(("UNIX_FIND_OTHER_ARGUMENTS", arguments as u64));
    let (byte, mask) = flag_mask(btf, "tcp_sock", "is_mptcp").unwrap_or((ABSENT, 0));
    values.extend([("TCP_IS_MPTCP", byte), ("TCP_IS_MPTCP_MASK", mask)]);
    values.push(("TASK_COMPAT_FLAGS", path_offset(btf, AtLeast(4), abi.compat)?));
    values.push(("COMPAT_MASK", abi.compat_mask));
    values.extend(abi.numbers);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::{btf::release, *};

    /// The position of a name in the BTF's string section.
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
        // Two names of the same length, so that they can be swapped in place.
        let (one, other) = ("group_leader", "self_exec_id");
        let (at, at_other) = (position(&bytes, one), position(&bytes, other));
        bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
        bytes[at_other..at_other + one.len()].copy_from_slice(one.as_bytes());
        let btf = Btf::from_bytes(&bytes).expect("still valid BTF");
        let error = values(&btf, &[], &X86_64).expect_err("a number is no pointer").to_string();
        let release = release();
        let words =
            [release.as_str(), "8 bytes", "`group_leader`", "`struct task_struct`", "reads a pointer"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    #[test]
    fn a_missing_member_is_named() {
        let btf = Btf::from_bytes(&vmlinux_without("sk_max_ack_backlog")).expect("still valid BTF");
        let error = values(&btf, &[], &X86_64).expect_err("a needed member is gone");
        assert!(error.to_string().contains("no member `sk_max_ack_backlog` in `struct sock`"), "{error}");
    }

    #[test]
    fn a_member_that_a_kernel_may_lack_is_absent() {
        let btf = Btf::from_bytes(&vmlinux_without("mptcp_sock")).expect("still valid BTF");
        let values = values(&btf, &[], &X86_64).expect("mptcp is optional");
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
