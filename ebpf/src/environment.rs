//! The name of the service in the environment of the current process.
//!
//! A server that shows a title (nginx) writes it over its environment right after it begins to listen. Only a
//! program in the call of listen is sure to read it before.

use acceptd_common::{ServiceVariable, limits::SERVICE_VARIABLE_LEN};
use aya_ebpf::helpers::generated::bpf_probe_read_user_str;

use crate::{
    offsets::*,
    read::{AnyStruct, Typed},
    send::zero,
    task,
    uapi::ADDR_NO_RANDOMIZE,
};

/// Most reads of an environment. Each reads one variable, or a part of a long one.
const MAX_READS: u32 = 128;

/// Copies the variable that names the service of the current process; `out` is zero.
#[inline(always)]
pub fn copy_service_name(out: &mut ServiceVariable) {
    if READ_SERVICE_NAMES.load() == 1 {
        copy_service_variable(out);
    }
}

/// A global function, so that the verifier checks its loop once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_service_variable(out: *mut ServiceVariable) -> i32 {
    // SAFETY: for the verifier, the argument of a global function is a pointer to a variable, or null.
    let Some(out) = (unsafe { out.as_mut() }) else { return 0 };
    let task = task::current();
    let mm: Typed<AnyStruct> = task.follow(&TASK_MM);
    // Without random addresses, the agent cannot tell one start of a program from another.
    if mm.is_null() || task.load::<u32>(&TASK_PERSONALITY) & ADDR_NO_RANDOMIZE != 0 {
        return 0;
    }
    let end: u64 = mm.load(&MM_ENV_END);
    let mut address: u64 = mm.load(&MM_ENV_START);
    let mut is_start = true;
    for _ in 0..MAX_READS {
        if address >= end {
            break;
        }
        // The sample must not hold the end of a longer variable that was read before.
        clear(out);
        // SAFETY: the buffer has this size. The helper takes any address, and fails on one that cannot be
        // read.
        let length = unsafe {
            bpf_probe_read_user_str(
                out.bytes.as_mut_ptr().cast(),
                SERVICE_VARIABLE_LEN as u32,
                address as *const _,
            )
        };
        if length < 0 {
            break;
        }
        // A text that fills the buffer may be longer: the next read begins at its last byte, or at its NUL.
        let is_end = length < SERVICE_VARIABLE_LEN as i64;
        if is_start && is_service_name(out) {
            if is_end {
                return 0;
            }
            break;
        }
        // Older kernels, 6.1 among them, return 0 for an empty text, without its NUL.
        address += if length == 0 {
            1
        } else if is_end {
            length as u64
        } else {
            SERVICE_VARIABLE_LEN as u64 - 1
        };
        is_start = is_end;
    }
    clear(out);
    0
}

#[inline(always)]
fn clear(out: &mut ServiceVariable) {
    // SAFETY: a reference to a value, of which all-zero bytes are a valid one.
    unsafe { zero(core::ptr::from_mut(out).cast::<[u64; SERVICE_VARIABLE_LEN / 8]>()) };
}

/// Whether a variable begins with the name `OTEL_SERVICE_NAME` and its `=`.
#[inline(always)]
fn is_service_name(variable: &ServiceVariable) -> bool {
    let start = variable.bytes.as_ptr();
    // SAFETY: within the bytes. In a sample they are aligned to words.
    unsafe {
        core::ptr::read_volatile(start.cast::<u64>()) == u64::from_ne_bytes(*b"OTEL_SER")
            && core::ptr::read_volatile(start.add(8).cast::<u64>()) == u64::from_ne_bytes(*b"VICE_NAM")
            && core::ptr::read_volatile(start.add(16).cast::<u16>()) == u16::from_ne_bytes(*b"E=")
    }
}
