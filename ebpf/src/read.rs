//! The two ways to read kernel memory, and what each is for.

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};

/// Argument `index` of a tracepoint.
///
/// # Safety
/// `args` is the context of a tracepoint with more than `index` arguments.
#[inline(always)]
pub unsafe fn slot(args: *const u64, index: usize) -> u64 {
    // SAFETY: by this function's contract. Volatile, so that LLVM neither merges nor moves context loads.
    unsafe { core::ptr::read_volatile(args.add(index)) }
}

/// A load that the verifier checks: `base` must be a pointer whose kernel type it knows, and the member at
/// `offset` must have the size of `T`. A wrong offset is refused when the program is loaded.
#[inline(always)]
pub fn typed<T: Copy>(base: *const u8, offset: &Global<u64>) -> T {
    // SAFETY: the verifier knows the type of `base`, or refuses the program; a fault yields zero.
    unsafe { core::ptr::read_volatile(base.add(offset.load() as usize).cast::<T>()) }
}

/// A load from an address whose type the verifier does not know. A fault yields zero.
#[inline(always)]
pub fn probed<T: Copy + Default>(base: *const u8, offset: &Global<u64>) -> T {
    at(base.wrapping_add(offset.load() as usize).cast())
}

/// The value at an address of which the verifier knows nothing. A fault yields zero: the helper fills with zeros what it
/// could not read (`bpf_probe_read_kernel_common`, kernel/trace/bpf_trace.c). So nobody has to ask, and the verifier, which
/// follows each answer, does not have twice the paths with every load.
#[inline(always)]
pub fn at<T: Copy + Default>(address: *const T) -> T {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper takes any address, and always fills the value.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address.cast());
        value.assume_init()
    }
}

/// [`probed`] for a pointer.
#[inline(always)]
pub fn probed_ptr(base: *const u8, offset: &Global<u64>) -> *const u8 {
    probed::<u64>(base, offset) as *const u8
}
