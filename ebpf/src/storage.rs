//! The definition of a map of task storage, which aya-ebpf lacks. Its fields are never read: their types tell the loader
//! what to make (libbpf's form of a map definition in BTF).

use core::ptr;

/// `BPF_MAP_TYPE_TASK_STORAGE`, include/uapi/linux/bpf.h
const TASK_STORAGE: usize = 29;
/// `BPF_F_NO_PREALLOC`, which storage maps must have.
const NO_PREALLOC: usize = 1;

/// One `T` for each task that asked for it.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; TASK_STORAGE],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; NO_PREALLOC],
}

// SAFETY: nothing is ever read through the fields.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }
}
