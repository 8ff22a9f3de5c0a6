//! Texts of the kernel: fixed fields that end at their first NUL.

/// The bytes before the first NUL, or all bytes if there is none.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}
