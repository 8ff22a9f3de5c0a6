//! The values that the programs get.

/// The name of a global constant of the programs, and its value.
pub type GlobalValue = (&'static str, u64);

/// The value for a member that this kernel lacks. The programs test for it, and the verifier removes the
/// branch that would read the member.
pub(super) const ABSENT: u64 = u64::MAX;
