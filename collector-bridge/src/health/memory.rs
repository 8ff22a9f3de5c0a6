//! Gives freed memory back to the host after the start.
#![allow(unsafe_code, reason = "the C library's function has no safe wrapper")]

/// Returns freed memory from the C library to the kernel. Parsing the kernel's BTF takes some 40 MB in a
/// million small pieces, which glibc would keep for the rest of the agent's life (measured: 27 MB after the
/// start, 1.4 MB with this). Does nothing with other C libraries.
pub(crate) fn release_unused() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes no pointer and may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
