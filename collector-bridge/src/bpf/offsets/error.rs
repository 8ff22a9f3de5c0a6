//! Why the programs cannot be adapted to this kernel.

use thiserror::Error;

/// Why the programs cannot be adapted to this kernel.
#[derive(Debug, Error)]
pub enum OffsetError {
    /// The kernel's BTF could not be read.
    #[error(
        "cannot read the kernel's type information {path}: {cause}; acceptd needs a kernel built with CONFIG_DEBUG_INFO_BTF=y, and /sys mounted"
    )]
    Unreadable {
        /// The file that could not be read.
        path: String,
        /// Why reading or parsing failed.
        cause: String,
    },
    /// The kernel's BTF has no such member.
    #[error(
        "Linux {kernel} has no member `{member}` in `struct {structure}`, by its type information; this kernel is not supported yet, please report it"
    )]
    MissingMember {
        /// The kernel's release.
        kernel: String,
        /// Name of the struct.
        structure: &'static str,
        /// Name of the member.
        member: &'static str,
    },
    /// The member has another type than the programs read.
    #[error(
        "Linux {kernel} has {found} as member `{member}` of `struct {structure}`, by its type information, where acceptd reads {expected}; this kernel is not supported yet, please report it"
    )]
    OtherType {
        /// The kernel's release.
        kernel: String,
        /// Name of the struct.
        structure: &'static str,
        /// Name of the member.
        member: &'static str,
        /// The type of the member.
        found: String,
        /// The type that the programs read.
        expected: String,
    },
    /// acceptd does not know the system call ABI of this architecture.
    #[error("no system call layout is known for {0}; acceptd runs on x86_64 and aarch64")]
    UnknownArchitecture(&'static str),
}

impl OffsetError {
    pub(super) const fn is_missing_member(&self) -> bool {
        matches!(self, Self::MissingMember { .. })
    }
}
